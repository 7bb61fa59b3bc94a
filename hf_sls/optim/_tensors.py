"""Arithmetic over lists of tensors, in torch's `_foreach_` kernels, with slopes summed in at least fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the inner product `<left, right>` over two lists of equal shapes, as a 0-dim tensor.

    Half-precision tensors are multiplied in fp32, so that the sum does not lose the small terms.
    """
    if not left:
        return torch.zeros(())
    device = left[0].device
    products = [torch.dot(_flat(x), _flat(y)) for x, y in zip(left, right)]
    return torch.stack([product.to(device) for product in products]).sum()


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat.float() if tensor.dtype in (torch.float16, torch.bfloat16) else flat


def to_floats(*scalars: Tensor | float) -> list[float]:
    """Read several scalars from their device with one host synchronisation."""
    tensors = [s for s in scalars if isinstance(s, Tensor)]
    if not tensors:
        return [float(s) for s in scalars]
    stacked = torch.stack([torch.as_tensor(s, device=tensors[0].device, dtype=torch.float64) for s in scalars])
    return stacked.tolist()
