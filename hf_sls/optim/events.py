"""What a step tells the rules of an optimizer, which learn from it by `update(memory, event)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome = Literal["accepted", "exhausted", "unresolvable"]


@dataclass(frozen=True)
class SearchResult:
    """How a search ended.

    Attributes:
        step_size: the last one tried.
        loss: of the last trial; NaN if there was none.
        trials: how many steps were judged.
        outcome: of the last one.
        accepted_before: how many of the trials before the last were accepted.
    """

    step_size: float
    loss: float
    trials: int
    outcome: Outcome
    accepted_before: int = 0

    @property
    def backtracks(self) -> int:
        """The number of rejected trials."""
        return self.trials - self.accepted_before - (self.outcome == "accepted")


@dataclass(frozen=True)
class Searched:
    """These parameters were searched.

    Attributes:
        loss: the loss before the step, `f(w)`.
        slope: `s = -<g, p>`.
        result: how the search ended.
    """

    loss: float
    slope: float
    result: SearchResult

    @property
    def trials(self) -> int:
        """The number of forward passes that it took."""
        return self.result.trials

    @property
    def accepted(self) -> bool:
        """Whether it found a step."""
        return self.result.outcome == "accepted"


@dataclass(frozen=True)
class SearchedElsewhere:
    """Forward passes were spent, not on a search of these parameters: of others, or the batch has looked back.

    Attributes:
        trials: the number of forward passes.
        accepted: whether a step was taken.
    """

    trials: int
    accepted: bool


@dataclass(frozen=True)
class NotSearched:
    """No parameters were searched: no search was due, or it had no finite gradient to start from."""


@dataclass(frozen=True)
class LookedBack:
    """The next mini-batch has looked back at the last step: its loss at both ends, and its slope at the end.

    Attributes:
        step_size: eta_k, of the last step.
        own_slope: `<g_k, u_k>`, the slope along that step that its own batch saw.
        slope: `<g_{k+1}, u_k>`, the one that the next batch sees where the step led to. Above 0 the loss of this batch
            still falls along it.
        decrease: by how much the step has lowered the loss of the next batch; below 0 it has raised it.
    """

    step_size: float
    own_slope: float
    slope: float
    decrease: float


@dataclass(frozen=True)
class Worsened:
    """The run got worse, and the step size is multiplied by `factor`, below 1."""

    factor: float


Event: TypeAlias = Searched | SearchedElsewhere | NotSearched | LookedBack | Worsened
