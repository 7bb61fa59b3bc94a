"""Dropout masks that are drawn once: on a CPU, drawing them is a third of a forward pass and more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class DrawnMasks:
    """Remembers the Bernoulli masks that a first evaluation draws on the CPU, and hands them to later ones.

    After each mask the generator is where drawing it would have left it, so that everything else that is random is the
    same too.

        >>> masks, inputs = DrawnMasks(), torch.ones(6)
        >>> with masks.drawing():
        ...     first = torch.nn.functional.dropout(inputs)
        >>> with masks.repeating():
        ...     second = torch.nn.functional.dropout(inputs)
        >>> bool((first == second).all())
        True
    """

    def __init__(self) -> None:
        self._drawn: list[tuple[Tensor, tuple[Any, ...], Tensor]] = []

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Remember the masks drawn in the block."""
        with _Bernoulli(self._draw):
            yield

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Draw the same masks in the block, in the same order; from a different one on, draw as ever."""
        left = iter(self._drawn)

        def repeat(tensor: Tensor, *args: Any) -> None:
            nonlocal left
            drawn = next(left, None)
            if drawn is None or (drawn[0].shape, drawn[1]) != (tensor.shape, args):
                left = iter(())
                torch.ops.aten.bernoulli_.float(tensor, *args)
            else:
                mask, _, generator_state = drawn
                tensor.copy_(mask)
                torch.set_rng_state(generator_state)

        with _Bernoulli(repeat):
            yield

    def _draw(self, tensor: Tensor, *args: Any) -> None:
        torch.ops.aten.bernoulli_.float(tensor, *args)
        if not _in_backward():
            self._drawn.append((tensor.bool(), args, torch.get_rng_state()))


class _Bernoulli(TorchDispatchMode):
    """Puts `draw` in the place of `tensor.bernoulli_(p)` for CPU tensors and the default generator."""

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Whether torch may go on compiling what is called in the block."""
        return True

    def __init__(self, draw: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._draw = draw

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = func is torch.ops.aten.bernoulli_.float and not kwargs
        if not (drawn and type(args[0]) is Tensor and args[0].device.type == "cpu"):
            return func(*args, **(kwargs or {}))
        self._draw(*args)
        return args[0]


def _in_backward() -> bool:
    """Whether autograd is at work: what gradient checkpointing draws again there is drawn already."""
    return torch._C._current_graph_task_id() != -1


def can_be_kept(model: nn.Module) -> bool:
    """Whether the model draws its masks where `DrawnMasks` sees it, and memory is not what it was told to save.

    That is on a machine without an accelerator, not in compiled code, and without gradient checkpointing.
    """
    if torch.accelerator.is_available() or any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return False
    return not any(
        isinstance(module, torch._dynamo.OptimizedModule)
        or module._compiled_call_impl is not None
        or getattr(module, "gradient_checkpointing", False)
        for module in model.modules()
    )
