"""The inner products, against float64 on the same numbers."""

from __future__ import annotations

import pytest
import torch

from hf_sls.optim import _tensors
from hf_sls.optim._tensors import chunks, dot, dot_difference, pieces

SHAPES = [(3, 4), (50, 60), (7,), (), (2, 3, 5, 7), (1500,)]


def random_tensors(seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]
    tensors[4] = tensors[4].to(memory_format=torch.channels_last)
    return tensors


@pytest.mark.parametrize("chunk", [1, 64, 2**20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_dot_and_dot_difference(dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensors, "_CHUNK_ON_CPU", chunk)
    x, y = random_tensors(0, dtype), random_tensors(1, dtype)
    z = [tensor - tensor.sign() * 2.0**-6 for tensor in y]
    expected = sum(float((a.double() * b.double()).sum()) for a, b in zip(x, y))
    difference = sum(float((a.double() * (b - c).double()).sum()) for a, b, c in zip(x, y, z))
    assert float(dot(x, y)) == pytest.approx(expected, rel=1e-4)
    x, y, z = ([piece for tensor in tensors for piece in pieces(tensor)] for tensors in (x, y, z))
    assert float(dot_difference(x, y, z)) == pytest.approx(difference, rel=1e-4)


def test_chunks_are_bounded_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensors, "_CHUNK_ON_CPU", 64)
    tensors = random_tensors(0, torch.float32)
    labels = list(range(len(tensors)))
    parts = list(chunks(tensors, labels))
    assert [label for _, part in parts for label in part] == labels
    assert all(sum(t.numel() for t in part[:-1]) < 64 for part, _ in parts)
