"""Along what: from a gradient to the update that is searched and the update that is applied.

An update `u` points uphill, as a gradient does, and moves the parameters as `w - eta * u`; in the papers' symbols the
direction is `p = -u`, and the slope of the mini-batch loss along it is `s = <g, u>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from ._validation import check_choice, check_range

SearchDirection = Literal["gradient", "momentum"]


class Direction(Protocol):
    """What a step moves along. A frozen rule; its moments live in the optimizer's per-parameter state."""

    def new_state(self, parameter: Tensor) -> dict[str, Any]:
        """Return the moments of one parameter before its first step."""
        ...

    def accumulate(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> None:
        """Fold the gradients into the moments, in place."""
        ...

    def applied(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        """Return the update that the step takes (d in the papers)."""
        ...

    def searched(self, gradients: list[Tensor], states: list[dict[str, Any]], applied: list[Tensor]) -> list[Tensor]:
        """Return the update that the search tries (p in the papers): `applied` itself, or another one."""
        ...

    def steepest(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        """Return an update of positive slope for any gradient other than zero, for when `searched` has none."""
        ...


@dataclass(frozen=True)
class Gradient:
    """The gradient itself: `d = p = -g`, slope `||g||^2` (SLS, Vaswani et al. 2019, arXiv 1905.09997)."""

    def new_state(self, parameter: Tensor) -> dict[str, Any]:
        return {}

    def accumulate(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> None:
        return

    def applied(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        return list(gradients)

    def searched(self, gradients: list[Tensor], states: list[dict[str, Any]], applied: list[Tensor]) -> list[Tensor]:
        return applied

    def steepest(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        return list(gradients)


@dataclass(frozen=True)
class Adam:
    """Adam's preconditioned momentum: `d = -m^ / (sqrt(v^) + eps)`, with the moments of `torch.optim.Adam`.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator, at least 0.
        search: what the search moves along. `"gradient"`: `p = -g / (sqrt(v^) + eps)`, and the step size found is
            applied along `d` (arXiv 2403.18506). `"momentum"`: `p = d`, so that the point tested is the point taken
            (arXiv 2403.18519); on a step where `d` does not descend, the gradient is searched instead.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    search: SearchDirection = "momentum"

    def __post_init__(self) -> None:
        if len(self.betas) != 2:
            raise ValueError(f"betas={self.betas!r}: two numbers are needed, (beta1, beta2).")
        for name, beta in zip(("betas[0]", "betas[1]"), self.betas):
            check_range(name, beta, low=0.0, high=1.0, include_high=False)
        check_range("eps", self.eps, low=0.0)
        check_choice("search", self.search, get_args(SearchDirection))

    def new_state(self, parameter: Tensor) -> dict[str, Any]:
        return {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }

    def accumulate(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> None:
        beta1, beta2 = self.betas
        exp_avg_sq = [state["exp_avg_sq"] for state in states]
        torch._foreach_add_([state["step"] for state in states], 1.0)
        torch._foreach_lerp_([state["exp_avg"] for state in states], gradients, 1 - beta1)
        torch._foreach_mul_(exp_avg_sq, beta2)
        torch._foreach_addcmul_(exp_avg_sq, gradients, gradients, 1 - beta2)

    def applied(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        updates = self._preconditioned([state["exp_avg"] for state in states], states)
        torch._foreach_div_(updates, [1 - self.betas[0] ** _step(state) for state in states])
        return updates

    def searched(self, gradients: list[Tensor], states: list[dict[str, Any]], applied: list[Tensor]) -> list[Tensor]:
        return applied if self.search == "momentum" else self.steepest(gradients, states)

    def steepest(self, gradients: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        return self._preconditioned(gradients, states)

    def _preconditioned(self, vectors: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
        """Return `vectors / (sqrt(v^) + eps)`."""
        updates = torch._foreach_sqrt([state["exp_avg_sq"] for state in states])
        torch._foreach_div_(updates, [(1 - self.betas[1] ** _step(state)) ** 0.5 for state in states])
        torch._foreach_add_(updates, self.eps)
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, vectors)
        return list(updates)


def _step(state: dict[str, Any]) -> float:
    return float(state["step"])
