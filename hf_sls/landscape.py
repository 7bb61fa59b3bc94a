"""The loss of one mini-batch along the direction of a search, and the trials of the search."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .optim import FinishedSearch, LineSearchOptimizer

LANDSCAPE_NAME = "landscape.json"
_POINTS = 33
_REACH = 2.0


@dataclass(frozen=True)
class Landscape:
    """The loss of one mini-batch, with one set of dropout masks, as a function of the step size.

    Attributes:
        step: number of the optimizer step, from 1.
        step_sizes: where the loss was evaluated: 33 values from 0 to twice the final step size of the search.
        losses: the loss at each of them; the first is the loss before the step.
        slope: decrease of the loss per unit of step size at the start.
        intercept: intercept of the line of acceptance, `intercept - rate * step_size`.
        rate: its rate.
        tried: step size and loss of each trial, in order; the rejected ones come first.
        step_size: the final step size of the search, before a schedule scales it.
        outcome: `"accepted"`, or why no step was taken (`SearchReport.outcome`).
        rejected: number of trials that were rejected; `None` in files from before it was counted.
    """

    step: int
    step_sizes: list[float]
    losses: list[float]
    slope: float
    intercept: float
    rate: float
    tried: list[tuple[float, float]]
    step_size: float
    outcome: str
    rejected: int | None = None


def measure_landscape(search: FinishedSearch) -> Landscape:
    """Evaluate the loss along the direction of a search, in 32 forward passes without side effects."""
    end = _REACH * search.result.step_size
    step_sizes = [end * index / (_POINTS - 1) for index in range(_POINTS)]
    return Landscape(
        step=search.step,
        step_sizes=step_sizes,
        losses=[search.loss, *(search.loss_at(step_size) for step_size in step_sizes[1:])],
        slope=search.slope,
        intercept=search.line.intercept,
        rate=search.line.rate,
        tried=search.tried,
        step_size=search.result.step_size,
        outcome=search.result.outcome,
        rejected=search.result.backtracks,
    )


@contextmanager
def record_landscapes(optimizer: LineSearchOptimizer) -> Iterator[list[Landscape]]:
    """Record the landscape of every search in the block, at 32 forward passes each.

    Parameters, moments and random state stay bitwise the same as without recording.

        >>> import torch
        >>> from hf_sls import AdamSLS
        >>> weights = torch.nn.Parameter(torch.tensor([3.0, 1.0]))
        >>> optimizer = AdamSLS([weights])
        >>> with record_landscapes(optimizer) as landscapes:
        ...     loss = optimizer.step(lambda: weights.square().sum())
        >>> landscapes[0].losses[0]
        10.0

    Args:
        optimizer: a line-search optimizer, not wrapped by Accelerate.

    Yields:
        The list to which the landscapes are added, oldest first. A step whose gradient is zero or not finite has no
        direction, and so no landscape.
    """
    landscapes: list[Landscape] = []
    before = optimizer.observer
    optimizer.observer = lambda search: landscapes.append(measure_landscape(search))
    try:
        yield landscapes
    finally:
        optimizer.observer = before


def save_landscapes(landscapes: list[Landscape], path: str | Path) -> None:
    """Write landscapes as JSON."""
    Path(path).write_text(json.dumps([asdict(landscape) for landscape in landscapes]), encoding="utf-8")


def load_landscapes(run: str | Path) -> list[Landscape]:
    """Read the landscapes that `LineSearchCallback(landscape_steps=...)` recorded.

    Args:
        run: the `output_dir` of the run, or the JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold landscapes.
    """
    path = Path(run) / LANDSCAPE_NAME if Path(run).is_dir() else Path(run)
    try:
        return [Landscape(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no {path}. A run records landscapes only at the steps that it is given: "
            "SLSTrainer(..., callbacks=[LineSearchCallback(landscape_steps=[10])])."
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of landscapes: {error}.") from error
