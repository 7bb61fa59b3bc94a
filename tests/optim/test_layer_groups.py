"""PLASLS's groups, on models of known layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from hf_sls.optim import layer_groups

from ..conftest import tiny_gpt2
from ..members import published


def bert(layers: int) -> nn.Module:
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=8
    )
    return BertForSequenceClassification(config)


def names(groups: list[dict[str, Any]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for group in groups:
        found.setdefault(group["layer"], []).extend(name for name, _ in group["params"])
    return found


@pytest.mark.parametrize(("layers", "blocks", "sizes"), [(12, 8, {1, 2}), (6, 3, {2}), (4, 8, {1}), (12, 1, {12})])
def test_bert_is_embeddings_blocks_and_head(layers: int, blocks: int, sizes: set[int]) -> None:
    found = names(layer_groups(bert(layers), blocks))
    assert sorted(found) == list(range(min(blocks, layers) + 2))
    assert all("embeddings" in name for name in found[0])
    assert all("pooler" in name or "classifier" in name for name in found[max(found)])
    in_layer = [{name.split(".")[3] for name in found[layer]} for layer in list(found)[1:-1]]
    assert {len(numbers) for numbers in in_layer} <= sizes
    assert sorted(int(number) for numbers in in_layer for number in numbers) == list(range(layers))


@pytest.mark.parametrize("model", [bert(4), tiny_gpt2(), nn.Sequential(*[nn.Linear(2, 2) for _ in range(10)])])
def test_every_trainable_parameter_is_in_one_group(model: nn.Module) -> None:
    next(model.parameters()).requires_grad_(False)
    grouped = [parameter for group in layer_groups(model, 3) for _, parameter in group["params"]]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, trainable))


def test_encoder_and_decoder_blocks_are_counted_through() -> None:
    config = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2)
    found = names(layer_groups(T5ForConditionalGeneration(config), 4))
    assert sorted(found)[:5] == [0, 1, 2, 3, 4]
    assert any("encoder.block.1" in name for name in found[2])
    assert any("decoder.block.0" in name for name in found[3])


def test_decay_splits_a_layer_but_not_its_search() -> None:
    torch.manual_seed(0)
    model = bert(2)
    decaying = {name for name, _ in model.named_parameters() if name.endswith("weight") and "LayerNorm" not in name}
    groups = layer_groups(model, 2, weight_decay=0.1, decay_parameters=decaying)
    assert {name for group in groups if group["weight_decay"] == 0.1 for name, _ in group["params"]} == decaying
    optimizer = published("plasls", groups, joint_steps=1)
    tokens, labels = torch.randint(0, 20, (8, 4)), torch.randint(0, 2, (8,))
    for _ in range(6):
        optimizer.step(lambda: model(input_ids=tokens, labels=labels).loss)
    steps = {}
    for group in optimizer.param_groups:
        steps.setdefault(group["layer"], set()).add(group["step_size"])
    assert all(len(found) == 1 for found in steps.values())


def test_layers_have_names() -> None:
    def layer_names(model: nn.Module, blocks: int) -> dict[int, str]:
        return {group["layer"]: group["layer_name"] for group in layer_groups(model, blocks)}

    assert list(layer_names(bert(4), 2).values()) == ["embeddings", "blocks_1", "blocks_2", "head"]
    assert list(layer_names(bert(2), 8).values()) == ["embeddings", "blocks_1", "blocks_2", "head"]
    frozen = bert(2)
    frozen.bert.embeddings.requires_grad_(False)
    assert layer_names(frozen, 2) == {0: "blocks_1", 1: "blocks_2", 2: "head"}
    plain = nn.Sequential(*[nn.Linear(2, 2) for _ in range(2)])
    assert layer_names(plain, 2) == {number: f"layer_{number}" for number in range(4)}


def test_blocks_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks=0"):
        layer_groups(bert(2), 0)
