"""Parameter groups that follow the layers of a model, for the per-layer search of PLASLS."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from ._validation import check_integer


def layer_groups(
    model: nn.Module,
    blocks: int = 8,
    weight_decay: float = 0.0,
    decay_parameters: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a model: embeddings, blocks, head (PLASLS, arXiv 2403.18506).

    The blocks are the items of the outermost `nn.ModuleList`s, in order, split evenly into `blocks` layers; what comes
    before the first of them is the layer of the embeddings, what comes after the last one that of the head. What lies
    between two lists, as in an encoder-decoder, belongs to the block before it. A model without a list is split evenly
    by its parameters in their order.

        >>> model = nn.ModuleDict(
        ...     {"embed": nn.Linear(2, 3), "blocks": nn.ModuleList([nn.Linear(3, 3)] * 4), "head": nn.Linear(3, 1)}
        ... )
        >>> [group["layer_name"] for group in layer_groups(model, blocks=1)]
        ['embeddings', 'blocks_1', 'head']

    Args:
        model: the model. Tied parameters belong to the first place they occur in.
        blocks: number of layers that the blocks make, at least 1; fewer when there are fewer blocks.
        weight_decay: weight decay of `decay_parameters`; the others have none.
        decay_parameters: names of the parameters that decay; `None` stands for all.

    Returns:
        Parameter groups with the keys `"layer"`, numbered from 0, and `"layer_name"`: `embeddings`, `blocks_1` and so
        on, `head`, or `layer_0` and so on in a model without a list. A layer has two groups where only some of its
        parameters decay.
    """
    check_integer("blocks", blocks, low=1)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    block_of = _blocks(model)
    position, positions = 0, {}
    for name, _ in named:
        position = block_of.get(name, position)
        positions[name] = position
    last_in_block = max((i for i, (name, _) in enumerate(named) if name in block_of), default=-1)
    count = max(block_of.values(), default=0)
    layers: dict[tuple[int, bool], list[Any]] = {}
    for index, (name, parameter) in enumerate(named):
        if not count:
            layer = index * (blocks + 2) // len(named)
        elif index > last_in_block:
            layer = blocks + 1
        elif positions[name] == 0:
            layer = 0
        else:
            layer = 1 + (positions[name] - 1) * min(blocks, count) // count
        decays = decay_parameters is None or name in decay_parameters
        layers.setdefault((layer, decays), []).append((name, parameter))
    numbers = {layer: number for number, layer in enumerate(sorted({layer for layer, _ in layers}))}
    ends = {0: "embeddings", blocks + 1: "head"} if count else {}
    return [
        {
            "params": parameters,
            "layer": numbers[layer],
            "layer_name": ends.get(layer, f"{'blocks' if count else 'layer'}_{layer}"),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (layer, decays), parameters in sorted(layers.items(), key=lambda item: item[0])
    ]


def _blocks(model: nn.Module) -> dict[str, int]:
    """Return the number of the block, from 1, of each parameter inside one."""
    outermost: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in outermost):
            outermost.append(name)
    prefixes = [f"{name}.{index}." for name in outermost for index in range(len(model.get_submodule(name)))]  # type: ignore[arg-type]
    return {
        name: number
        for name, _ in model.named_parameters()
        for number, prefix in enumerate(prefixes, start=1)
        if name.startswith(prefix)
    }
