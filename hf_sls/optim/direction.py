"""Along what: from a gradient to the update that is searched and the update that is applied.

An update `u` points uphill, as a gradient does, and moves the parameters as `w - eta * u`; in the papers' symbols the
direction is `p = -u`, and the slope of the mini-batch loss along it is `s = <g, u>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from math import inf, sqrt
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd
from typing_extensions import final

from ._tensors import HALF, chunks, quotients
from ._validation import LARGEST, check_choice, check_range

SearchDirection = Literal["gradient", "momentum"]
State = dict[str, Any]


class Direction:
    """What a step moves along. A frozen rule; its moments live in the optimizer's per-parameter state.

    A direction of your own derives from this class and defines `new_state`, `accumulate` and `applied_update`; if it
    searches along another update than it applies, also `search_update` and `searches_applied`. `Gradient`, `Adam` and
    `Adagrad` are final: their kernels are right for their own formula only. All lists have one item for each parameter
    with a gradient; for an `elementwise` direction an item may be a piece of a parameter, with that piece of its
    gradient and state.
    """

    searches_applied: bool = True
    """Whether `search_update` is `applied_update`, so that the point tested is the point taken."""

    elementwise: bool = False
    """Whether each element's update depends on that element alone, so that a large parameter can come in pieces."""

    of_moments_alone: bool = False
    """Whether `applied_update` depends on the moments alone, so that it returns the last update until `accumulate`."""

    largest_update: float = inf
    """What no element of `applied_update` exceeds, if that depends on the moments alone."""

    def __init_subclass__(cls) -> None:
        for base in cls.__bases__:
            if getattr(base, "__final__", False):
                raise TypeError(f"{cls.__name__} derives from {base.__name__}, which is final. Derive from Direction.")

    def new_state(self, parameter: Tensor) -> State:
        """Return the moments of one parameter before its first step."""
        return {}

    def accumulate(self, gradients: list[Tensor], states: list[State]) -> None:
        """Fold the gradients into the moments, in place."""

    def applied_update(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        """Return the update that the step takes (d in the papers), after `accumulate`."""
        raise NotImplementedError

    def search_update(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        """Return the update that the search moves along (p in the papers), after `accumulate`."""
        return self.applied_update(gradients, states)

    def steepest(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        """Return an update of positive slope for any gradient other than zero, for when `search_update` has none."""
        return gradients

    def advance(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        step_size: float,
        weight_decay: float,
        skip: Tensor,
    ) -> None:
        """Accumulate and take the whole step, `w <- w - eta * weight_decay * w - eta * u`.

        Overridden where torch has a fused kernel for it.

        Args:
            parameters: moved in place; a search passes zeros and a step size of -1 to see the update itself.
            gradients: of the parameters.
            states: of the parameters.
            step_size: eta.
            weight_decay: decoupled, times the step size.
            skip: 0-dim tensor, 1.0 when nothing is to change (the loss or the gradient is not finite), else 0.0.
        """
        if skip:
            return
        self.accumulate(gradients, states)
        if weight_decay:
            torch._foreach_mul_(parameters, 1 - step_size * weight_decay)
        for part, part_gradients, part_states in chunks(parameters, gradients, states):
            torch._foreach_add_(part, self.applied_update(part_gradients, part_states), alpha=-step_size)


@cache
def _has_fused_kernel(optimizer: str, device: torch.device, dtype: torch.dtype) -> bool:
    try:
        getattr(torch.optim, optimizer)([torch.empty(0, device=device, dtype=dtype)], fused=True)
    except (RuntimeError, TypeError):
        return False
    return True


def _can_fuse(optimizer: str, parameters: list[Tensor], *others: list[Tensor]) -> bool:
    """Whether torch has a kernel for the parameters, and all tensors are laid out alike, as it requires."""
    kinds = {(parameter.device, parameter.dtype) for parameter in parameters}
    alike = all(map(Tensor.is_contiguous, chain(parameters, *others))) or all(
        x.stride() == p.stride() for tensors in others for x, p in zip(tensors, parameters)
    )
    return alike and all(_has_fused_kernel(optimizer, *kind) for kind in kinds)


@final
@dataclass(frozen=True)
class Gradient(Direction):
    """The gradient itself: `d = p = -g`, slope `||g||^2` (SLS, Vaswani et al. 2019, arXiv 1905.09997)."""

    elementwise = True

    def applied_update(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        return gradients

    def advance(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        step_size: float,
        weight_decay: float,
        skip: Tensor,
    ) -> None:
        if not _can_fuse("SGD", parameters, gradients):
            return super().advance(parameters, gradients, states, step_size, weight_decay, skip)
        sgd(
            parameters,
            gradients,
            [None] * len(parameters),
            fused=True,
            found_inf=skip,
            weight_decay=weight_decay,
            momentum=0.0,
            lr=step_size,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


@final
@dataclass(frozen=True)
class Adam(Direction):
    """Adam's preconditioned momentum: `d = -m^ / (sqrt(v^) + eps)`, with the moments of `torch.optim.Adam`.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator, at least 0.
        search: what the search moves along. `"gradient"`: `p = -g / (sqrt(v^) + eps)`, and the step size found is
            applied along `d` (arXiv 2403.18506). `"momentum"`: `p = d`, so that the point tested is the point taken
            (arXiv 2403.18519); on a step where `d` does not descend, the gradient is searched instead.
        amsgrad: whether `v^` is the largest so far (Reddi et al. 2018), as in `torch.optim.Adam(amsgrad=True)`.
    """

    elementwise = True
    of_moments_alone = True

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    search: SearchDirection = "momentum"
    amsgrad: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise ValueError(f"betas={self.betas!r} is not allowed: two numbers are needed, (beta1, beta2).")
        for name, beta in zip(("betas[0]", "betas[1]"), self.betas):
            check_range(name, beta, low=0.0, high=1.0, include_high=False)
        check_range("eps", self.eps, low=0.0, high=LARGEST)
        check_choice("search", self.search, get_args(SearchDirection))

    @property
    def searches_applied(self) -> bool:  # type: ignore[override]
        return self.search == "momentum"

    @property
    def largest_update(self) -> float:  # type: ignore[override]
        """By Cauchy and Schwarz, `|m^| <= sqrt(v^) (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2))` after many steps."""
        beta1, beta2 = self.betas
        if not self.eps or beta1**2 >= beta2:
            return inf
        return max(1.0, (1 - beta1) / sqrt((1 - beta2) * (1 - beta1**2 / beta2)))

    def new_state(self, parameter: Tensor) -> State:
        zeros = partial(torch.zeros_like, parameter, memory_format=torch.preserve_format)
        moments = {name: zeros() for name in self._moment_names}
        return {"step": torch.zeros((), dtype=torch.float32, device=parameter.device), **moments}

    def accumulate(self, gradients: list[Tensor], states: list[State]) -> None:
        beta1, beta2 = self.betas
        exp_avg_sq = [state["exp_avg_sq"] for state in states]
        torch._foreach_add_([state["step"] for state in states], 1.0)
        torch._foreach_lerp_([state["exp_avg"] for state in states], gradients, 1 - beta1)
        torch._foreach_mul_(exp_avg_sq, beta2)
        torch._foreach_addcmul_(exp_avg_sq, gradients, gradients, 1 - beta2)
        if self.amsgrad:
            torch._foreach_maximum_([state["max_exp_avg_sq"] for state in states], exp_avg_sq)

    def applied_update(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        correction = _bias_correction(self.betas[0], states)
        return self._preconditioned([state["exp_avg"] for state in states], states, correction)

    def search_update(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        return self.applied_update(gradients, states) if self.searches_applied else self.steepest(gradients, states)

    def steepest(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        return self._preconditioned(gradients, states, torch.ones(len(states), device=states[0]["step"].device))

    def _preconditioned(self, vectors: list[Tensor], states: list[State], correction: Tensor) -> list[Tensor]:
        """Return `vectors / correction / (sqrt(v^) + eps)`, in fp32 for half precision, where eps would be 0."""
        scale = correction / _bias_correction(self.betas[1], states).sqrt()
        second_moments = [state[self._moment_names[-1]] for state in states]
        denominators = torch._foreach_sqrt([v.float() if v.dtype in HALF else v for v in second_moments])
        torch._foreach_mul_(denominators, scale.unbind())
        torch._foreach_add_(denominators, (self.eps * correction).unbind())
        return quotients(vectors, denominators)

    @property
    def _moment_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if self.amsgrad else ("exp_avg", "exp_avg_sq")

    def advance(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        step_size: float,
        weight_decay: float,
        skip: Tensor,
    ) -> None:
        moments = {name: [state[name] for state in states] for name in self._moment_names}
        if not _can_fuse("AdamW", parameters, gradients, *moments.values()):
            return super().advance(parameters, gradients, states, step_size, weight_decay, skip)
        adamw(
            parameters,
            gradients,
            moments["exp_avg"],
            moments["exp_avg_sq"],
            moments.get("max_exp_avg_sq", []),
            [state["step"] for state in states],
            fused=True,
            found_inf=skip,
            amsgrad=self.amsgrad,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=step_size,
            weight_decay=weight_decay,
            eps=self.eps,
            maximize=False,
        )


@final
@dataclass(frozen=True)
class Adagrad(Direction):
    """Adagrad's preconditioned gradient: `d = p = -g / (sqrt(sum g^2) + eps)` (Duchi et al. 2011).

    The Armijo search along it is that of arXiv 2006.06835.

    Args:
        eps: added to the denominator, at least 0.
    """

    elementwise = True

    eps: float = 1e-10

    def __post_init__(self) -> None:
        check_range("eps", self.eps, low=0.0, high=LARGEST)

    def new_state(self, parameter: Tensor) -> State:
        return {"sum": torch.zeros_like(parameter, memory_format=torch.preserve_format)}

    def accumulate(self, gradients: list[Tensor], states: list[State]) -> None:
        torch._foreach_addcmul_([state["sum"] for state in states], gradients, gradients)

    def applied_update(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        updates = torch._foreach_sqrt([s.float() if s.dtype in HALF else s for s in (x["sum"] for x in states)])
        torch._foreach_add_(updates, self.eps)
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, gradients)
        return list(updates)

    def steepest(self, gradients: list[Tensor], states: list[State]) -> list[Tensor]:
        return self.applied_update(gradients, states)


def _bias_correction(beta: float, states: list[State]) -> Tensor:
    """Return `1 - beta^k` for the step k of each state, at least 1, without waiting for the device."""
    steps = torch.stack([state["step"] for state in states]).clamp(min=1)
    return 1 - beta ** (steps if steps.device.type == "mps" else steps.double())
