"""The inner products, against float64 on the same numbers."""

from __future__ import annotations

import pytest
import torch

from hf_sls.optim import _tensors
from hf_sls.optim._tensors import Scratch, chunks, dot, quotients, square_sum

SHAPES = [(3, 4), (50, 60), (7,), (), (2, 3, 5, 7), (1500,)]


def random_tensors(seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]
    tensors[4] = tensors[4].to(memory_format=torch.channels_last)
    return tensors


@pytest.fixture(params=[True, False], ids=["CPU", "as elsewhere"])
def on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensors, "_on_cpu", lambda tensors: request.param)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_dot(dtype: torch.dtype, on_cpu: None) -> None:
    x, y = random_tensors(0, dtype), random_tensors(1, dtype)
    expected = sum(float((a.double() * b.double()).sum()) for a, b in zip(x, y))
    assert float(dot(x, y)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_quotients(dtype: torch.dtype, on_cpu: None) -> None:
    """Of half precision over fp32, as Adam divides."""
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    x, y = random_tensors(0, dtype), random_tensors(1, wide)
    expected = [a.double() / b.double() for a, b in zip(x, y)]
    for found, value in zip(quotients(x, y), expected, strict=True):
        assert found.dtype == wide
        torch.testing.assert_close(found.double(), value, rtol=1e-6, atol=0.0)


def test_square_sum_of_several_kinds(on_cpu: None) -> None:
    tensors = [x for dtype in (torch.float32, torch.float16, torch.float64) for x in random_tensors(0, dtype)]
    expected = sum(float(x.double().square().sum()) for x in tensors)
    assert float(square_sum(tensors)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_square_sum_says_what_is_not_finite(dtype: torch.dtype, on_cpu: None) -> None:
    """Of half precision each element is finite here, and the norm would not be."""
    large = [torch.full((100,), 6e4, dtype=dtype), torch.ones(3, dtype=dtype)]
    assert square_sum(large).isfinite()
    for value in (float("nan"), float("inf")):
        large[1][1] = value
        assert not square_sum(large).isfinite()


def test_scratch_is_zero_again_for_each_part_and_one_piece_of_memory() -> None:
    scratch = Scratch()
    memory = scratch.zeros(random_tensors(0, torch.float32))[0].untyped_storage().data_ptr()
    for dtype in (torch.float64, torch.float32):
        for like in (random_tensors(1, dtype), random_tensors(1, dtype)[:2]):
            zeros = scratch.zeros(like)
            assert [(x.shape, x.dtype) for x in zeros] == [(x.shape, x.dtype) for x in like]
            assert not any(x.any() for x in zeros)
            zeros[0].fill_(1.0)
    assert zeros[0].untyped_storage().data_ptr() == memory


def test_chunks_are_bounded_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensors, "_CHUNK_ON_CPU", 64)
    tensors = random_tensors(0, torch.float32)
    labels = list(range(len(tensors)))
    parts = list(chunks(tensors, labels))
    assert [label for _, part in parts for label in part] == labels
    assert all(sum(t.numel() for t in part[:-1]) < 64 for part, _ in parts)
