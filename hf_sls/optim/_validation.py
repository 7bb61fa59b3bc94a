"""Range checks that name the argument, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LARGEST = 1e12
"""What no step size or factor exceeds, so that products of them do not overflow."""

SMALLEST = 1e-12
"""What no fraction is below, so that products with it do not vanish."""


def check_range(
    name: str,
    value: Any,
    *,
    low: float,
    high: float = float("inf"),
    include_low: bool = True,
    include_high: bool = True,
) -> None:
    """Raise `ValueError` unless `value` is a number of the interval from `low` to `high` (NaN never is)."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    above = is_number and (value >= low if include_low else value > low)
    below = is_number and (value <= high if include_high else value < high)
    if not (above and below) or value == float("inf"):
        left, right = "[" if include_low else "(", "]" if include_high and high != float("inf") else ")"
        raise ValueError(f"{name}={value!r} is not allowed: a number in {left}{low}, {high}{right} is needed.")


def check_integer(name: str, value: Any, *, low: int) -> None:
    """Raise `ValueError` unless `value` is an integer of at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}={value!r} is not allowed: an integer of at least {low} is needed.")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`, and of its type."""
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
        raise ValueError(f"{name}={value!r} is not allowed: one of {', '.join(map(repr, choices))} is needed.")
