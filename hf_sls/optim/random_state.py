"""The random state that a loss evaluation starts from: Python's, numpy's, torch's, and those of the devices."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class RandomState:
    """A snapshot of the global random number generators, so that a trial repeats the dropout of the first evaluation.

    Example:
        >>> state = RandomState.capture()
        >>> first = torch.rand(())
        >>> state.restore()
        >>> bool(first == torch.rand(()))
        True
    """

    python: Any
    numpy: Any
    cpu: torch.Tensor
    devices: dict[torch.device, torch.Tensor]

    @classmethod
    def capture(cls, devices: Iterable[torch.device] = ()) -> RandomState:
        """Take a snapshot. `devices` are those whose generators count beside the CPU's and the current accelerator's.

        numpy's state is part of it when numpy has been imported (SpecAugment and LayerDrop draw from it).
        """
        numpy = sys.modules.get("numpy")
        return cls(
            python=random.getstate(),
            numpy=numpy.random.get_state() if numpy else None,
            cpu=torch.get_rng_state(),
            devices={
                device: torch.get_device_module(device).get_rng_state(*_which(device))
                for device in {*devices, *_current_accelerator()}
                if device.type not in ("cpu", "meta")
            },
        )

    def restore(self) -> None:
        """Put every generator back to where it was."""
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        for device, state in self.devices.items():
            torch.get_device_module(device).set_rng_state(state, *_which(device))


def _current_accelerator() -> list[torch.device]:
    """Return the device that a forward pass runs on though the parameters wait on the CPU, as FSDP2 may have it.

    One that nothing has run on yet is left alone: asking for its state would start it.
    """
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None or not getattr(torch.get_device_module(kind), "is_initialized", lambda: True)():
        return []
    return [torch.device(kind.type, torch.accelerator.current_device_index())]


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """Return the argument that names the device; there is one MPS device only, and its functions take none."""
    return () if device.type == "mps" else (device,)
