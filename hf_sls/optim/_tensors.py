"""Arithmetic over lists of tensors, in torch's `_foreach_` kernels, with slopes summed in at least fp32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_CHUNK_ON_CPU = 2**18
_CHUNK_ELSEWHERE = 2**22
HALF = (torch.float16, torch.bfloat16)


def _chunk(tensor: Tensor) -> int:
    """Return how many elements to work on at once: few enough for a CPU's cache, enough to keep a GPU busy."""
    return _CHUNK_ON_CPU if tensor.device.type == "cpu" else _CHUNK_ELSEWHERE


def chunks(tensors: Sequence[Tensor], *others: Sequence[Any]) -> Iterator[tuple[list[Any], ...]]:
    """Yield parallel lists in parts of one device and dtype, and of a chunk or one tensor: no temporary is large."""
    start, size = 0, 0
    for end, (tensor, following) in enumerate(zip(tensors, [*tensors[1:], None]), start=1):
        size += tensor.numel()
        alike = following is not None and (following.device, following.dtype) == (tensor.device, tensor.dtype)
        if size >= _chunk(tensor) or not alike:
            yield tuple(list(items[start:end]) for items in (tensors, *others))
            start, size = end, 0


def pieces(tensor: Tensor) -> Sequence[Tensor]:
    """Return `tensor` flat, in parts of a chunk at most; itself if it is no larger."""
    return torch.split(tensor.reshape(-1), _chunk(tensor)) if tensor.numel() > _chunk(tensor) else (tensor,)


def coarsest_spacing(tensors: Iterable[Tensor]) -> float:
    """Return the relative spacing of the coarsest floating-point numbers in which tensors are kept; 0 without any."""
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the inner product `<left, right>` over two lists of one device and equal shapes, as a 0-dim tensor.

    Half-precision tensors are multiplied in fp32, so that the sum does not lose the small terms. A device other than a
    CPU gets few large launches rather than one for each tensor.
    """
    if _on_cpu(left):
        return total([torch.dot(_flat(x), _flat(y)) for x, y in zip(left, right)])
    products = torch._foreach_mul([_flat(x) for x in left], [_flat(y) for y in right])
    return torch.cat(products).sum()


def quotients(numerators: list[Tensor], denominators: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    """Return `numerator / denominator` over two lists; on a CPU in the memory of the denominators."""
    if _on_cpu(numerators):
        return [torch.div(x, y, out=y) for x, y in zip(numerators, denominators)]
    return list(torch._foreach_div(numerators, denominators))


def square_sum(tensors: list[Tensor]) -> Tensor:
    """Return `||x||^2` over a list of tensors as a 0-dim tensor, not finite where one of their values is not.

    On a CPU a product with itself is several times faster than torch's norm; not so elsewhere, nor in half precision,
    of which torch's norm makes a copy in fp32 on a CPU: so it gets pieces there.
    """
    if _on_cpu(tensors):
        if not any(tensor.dtype in HALF for tensor in tensors):
            return dot(tensors, tensors)
        tensors = [piece for tensor in tensors for piece in pieces(tensor)]
    norms = []
    for device, dtype in dict.fromkeys((tensor.device, tensor.dtype) for tensor in tensors):
        alike = [tensor for tensor in tensors if (tensor.device, tensor.dtype) == (device, dtype)]
        norms.append(torch.stack(torch._foreach_norm(alike, 2, torch.float32 if dtype in HALF else dtype)))
    return total([of_one_kind.square().sum() for of_one_kind in norms])


def _on_cpu(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


class Scratch:
    """Memory to write one part after the other to, on a CPU while it is still in the cache."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def zeros(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return zeros like tensors of one device and dtype, valid until the next call."""
        sizes = [tensor.numel() for tensor in tensors]
        kind = (tensors[0].device, tensors[0].dtype)
        buffer = self._buffers.get(kind)
        if buffer is None or buffer.numel() < sum(sizes):
            buffer = self._buffers[kind] = tensors[0].new_empty(sum(sizes))
        flat = buffer[: sum(sizes)].zero_()
        return [zeros.view(tensor.shape) for zeros, tensor in zip(torch.split(flat, sizes), tensors)]


def total(scalars: Sequence[Tensor]) -> Tensor:
    """Return the sum of 0-dim tensors, on the device of the first; 0 of none."""
    if not scalars:
        return torch.zeros(())
    return torch.stack([scalar.to(scalars[0].device) for scalar in scalars]).sum()


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat.float() if tensor.dtype in HALF else flat


def to_floats(*scalars: Tensor | float) -> list[float]:
    """Read several scalars from their device with one host synchronisation."""
    tensors = [s for s in scalars if isinstance(s, Tensor)]
    if not tensors:
        return [float(s) for s in scalars]
    device = tensors[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    stacked = torch.stack([torch.as_tensor(s, device=device, dtype=dtype) for s in scalars])
    return stacked.tolist()
