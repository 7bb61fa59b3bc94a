"""Small problems in float64: a quadratic, a network, a transformer without dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from hf_sls.optim import LineSearchOptimizer


class Network(nn.Module):
    """A regression network with dropout on request, in float64."""

    def __init__(self, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.Dropout(dropout), nn.Tanh(), nn.Linear(16, 1)).to(dtype)
        self.inputs = torch.randn(64, 5, dtype=dtype)
        self.targets = torch.sin(self.inputs.sum(dim=1, keepdim=True))

    def closures(self, count: int, batch: int = 16) -> Iterator[Callable[[], Tensor]]:
        """Yield the closure of one mini-batch after another."""
        for step in range(count):
            rows = torch.arange(step * batch, (step + 1) * batch) % len(self.inputs)
            yield lambda rows=rows: nn.functional.mse_loss(self.layers(self.inputs[rows]), self.targets[rows])


class Transformer(nn.Module):
    """One encoder layer and a head over random tokens, in float64 and without dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.layers = nn.ModuleDict({"tokens": nn.Embedding(20, 16), "encoder": layer, "head": nn.Linear(16, 2)})
        self.double()
        self.tokens = torch.randint(0, 20, (80, 6))
        self.labels = (self.tokens[:, 0] > 9).long()

    def closures(self, count: int, batch: int = 16) -> Iterator[Callable[[], Tensor]]:
        """Yield the closure of one mini-batch after another."""
        for step in range(count):
            rows = torch.arange(step * batch, (step + 1) * batch) % len(self.tokens)
            yield lambda rows=rows: self._loss(rows)

    def _loss(self, rows: Tensor) -> Tensor:
        hidden = self.layers["encoder"](self.layers["tokens"](self.tokens[rows])).mean(dim=1)
        return nn.functional.cross_entropy(self.layers["head"](hidden), self.labels[rows])


def snapshot(module: nn.Module) -> list[Tensor]:
    """Return copies of the parameters."""
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(module: nn.Module, parameters: list[Tensor]) -> bool:
    """Whether the parameters are those of the snapshot, to the bit."""
    return all(torch.equal(now, before) for now, before in zip(module.parameters(), parameters))


def restored(module: nn.Module, parameters: list[Tensor], optimizer: LineSearchOptimizer) -> bool:
    """Whether the parameters are back at the snapshot: to the bit, or to 1e-6 of their norm if they moved uncopied."""
    if optimizer.direction.largest_update == float("inf") or not optimizer.direction.searches_applied:
        return same(module, parameters)
    now, before = parameters_to_vector(module.parameters()), parameters_to_vector(parameters)
    precision = torch.finfo(now.dtype).eps / torch.finfo(torch.float32).eps
    return bool((now - before).norm() <= 1e-6 * precision * before.norm())
