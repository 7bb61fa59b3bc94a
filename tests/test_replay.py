"""The core test: a trial at step size 0 gives back the recorded loss of the window, bit for bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from hf_sls import LineSearchTrainerMixin, LossClosure, SLSTrainer

from .conftest import VOCABULARY, classification_rows, language_rows, tiny_bert, tiny_gpt2


class ReplayChecked(LineSearchTrainerMixin, Trainer):
    """Evaluates the closure at the unmoved parameters before each search, and notes both losses."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.windows = getattr(self, "windows", [])
        if self.accelerator.sync_gradients:
            gradients = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]
            buffers = [buffer.clone() for buffer in self.model.buffers()]
            stream = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
            with torch.no_grad():
                replayed = self.window()
            torch.set_rng_state(stream[2])
            random.setstate(stream[0])
            self.windows.append((float(self.window.loss), float(replayed), len(self.window._micro_batches)))
            assert all(torch.equal(g, p.grad) for g, p in zip(gradients, self._with_gradient()))
            assert all(torch.equal(b, buffer) for b, buffer in zip(buffers, self.model.buffers()))
        return loss

    def _with_gradient(self) -> list[torch.Tensor]:
        return [p for p in self.model.parameters() if p.grad is not None]


def summed_cross_entropy(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    loss = nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
    return loss / (num_items_in_batch if num_items_in_batch is not None else len(labels))


class NormalizedClassifier(nn.Module):
    """Not a transformers model: BatchNorm, numpy and Python randomness, no loss keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.normalization = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.normalization(self.embedding(input_ids).mean(dim=1))
        hidden = hidden * (1 + 0.1 * np.random.rand() + 0.1 * random.random())
        logits = self.head(hidden)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class RelativeLoss(ReplayChecked):
    """Counts its evaluations, and divides the loss by a running mean of its own."""

    calls = 0
    mean: float | None = None

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        before, now = self.mean, float(loss)
        self.mean = now if before is None else 0.5 * before + 0.5 * now
        return loss * (1 + self.calls / 10) / (before or 1.0)


class Adjusted(nn.Module):
    """A criterion that subtracts from the logits what it remembers of them, in a buffer, a tensor and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.moving, self.last = torch.zeros(2), list[torch.Tensor]()

    def forward(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"]
        loss = nn.functional.cross_entropy(logits - self.mean - self.moving - sum(self.last[-2:]), labels)
        seen = logits.detach().mean(0)
        self.mean = 0.5 * self.mean + 0.5 * seen
        self.moving.mul_(0.5).add_(seen)
        self.last.append(seen)
        return loss


class Weighted(ReplayChecked):
    """Trains a parameter of its own, which it also keeps in a list and in an array, and remembers its last output."""

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        super().create_optimizer()
        self.weight = nn.Parameter(torch.zeros(()))
        self.weights, self.values = [self.weight], self.weight.detach().numpy()
        self.optimizer.add_param_group({"params": [self.weight]})
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.last = model(**inputs)
        return self.last.loss * torch.exp(-self.weight) + self.weight


class Augmented(NormalizedClassifier):
    """Draws from random number generators of its own, and keeps a list of its parameters and its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.generators = random.Random(0), np.random.default_rng(0), np.random.RandomState(0)
        self.generator = torch.Generator().manual_seed(0)
        self.flat, self.states = list(self.parameters()), (torch.zeros(16), {"calls": 0})

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second, third = self.generators
        noise = first.random() + second.random() + third.random() + torch.rand((), generator=self.generator)
        hidden = self.embedding(input_ids).mean(dim=1) + self.states[0]
        self.states = hidden.detach().mean(0), {"calls": self.states[1]["calls"] + 1}
        logits = self.head(hidden * (noise + self.states[1]["calls"]))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def lora(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.2, target_modules=["query", "value"])
    )


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no dropout": {"model": lambda: tiny_bert(dropout=0.0)},
    "eager attention": {"model": lambda: tiny_bert(attn_implementation="eager")},
    "accumulation 4, 4, 2": {"gradient_accumulation_steps": 4},
    "accumulation, causal LM": {"model": tiny_gpt2, "rows": language_rows, "gradient_accumulation_steps": 4},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "label smoothing, accumulation": {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 4},
    "compute_loss_func": {"compute_loss_func": summed_cross_entropy, "gradient_accumulation_steps": 4},
    "bf16": {"bf16": True},
    "bf16, accumulation": {"bf16": True, "gradient_accumulation_steps": 4},
    "no clipping": {"max_grad_norm": 0.0},
    "gradient checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
    "gradient checkpointing, reentrant": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "LoRA": {"model": lambda: lora(tiny_bert())},
    "LoRA, accumulation": {"model": lambda: lora(tiny_bert()), "gradient_accumulation_steps": 4},
    "NEFTune": {"model": tiny_gpt2, "rows": language_rows, "neftune_noise_alpha": 5.0},
    "BatchNorm, numpy and Python randomness": {"model": NormalizedClassifier, "gradient_accumulation_steps": 4},
    "counts and a mean of the trainer": {"trainer": RelativeLoss},
    "counts and a mean of the trainer, accumulation": {"trainer": RelativeLoss, "gradient_accumulation_steps": 4},
    "a parameter of the trainer": {"trainer": Weighted},
    "a criterion with a memory": {"compute_loss_func": Adjusted()},
    "generators of the model": {"model": Augmented, "gradient_accumulation_steps": 4},
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_replayed_loss_is_the_recorded_loss(case: str, arguments: Any) -> None:
    settings = dict(CASES[case])
    model = settings.pop("model", tiny_bert)()
    rows = settings.pop("rows", classification_rows)()
    compute_loss_func, trainer_class = settings.pop("compute_loss_func", None), settings.pop("trainer", ReplayChecked)
    args = arguments(num_train_epochs=1, max_steps=-1, optim_args="look_back=false", **settings)
    trainer = trainer_class(model=model, args=args, train_dataset=rows, compute_loss_func=compute_loss_func)
    trainer.train()
    accumulated = args.gradient_accumulation_steps == 4
    assert [count for *_, count in trainer.windows] == ([4, 4, 2] if accumulated else [1] * 10)
    assert [recorded for recorded, *_ in trainer.windows] == [replayed for _, replayed, _ in trainer.windows]
    assert len({recorded for recorded, *_ in trainer.windows}) == len(trainer.windows)
    assert trainer.line_search_optimizer.counts["trials"] > 0


def test_a_trial_leaves_a_parameter_of_the_trainer_where_it_was_moved(arguments: Any) -> None:
    moved: list[float] = []

    class Moved(Weighted):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if self.in_trial:
                moved.append(float(self.weight))
            return super().compute_loss(*args, **kwargs)

    args = arguments(max_steps=1, optim_args="look_back=false,init_step_size=0.01")
    trainer = Moved(model=tiny_bert(dropout=0.0), args=args, train_dataset=classification_rows())
    trainer.train()
    assert any(abs(value) == pytest.approx(0.01, rel=0.01) for value in moved)


class Planned(nn.Module):
    """Drops an object in its forward pass, and sets up a parameter in the first one, which a flag says either way."""

    def __init__(self, flag: bool) -> None:
        super().__init__()
        self.scale, self.plan = nn.Parameter(torch.ones(())), object()
        self.flag = self.until = flag
        self.generator = random.SystemRandom()

    def forward(self) -> torch.Tensor:
        if self.flag is self.until:
            self.scale.data.fill_(3.0)
            self.flag = not self.until
        if self.plan is not None:
            self.plan = None
        return self.scale.square()


@pytest.mark.parametrize("flag", [True, False])
def test_a_module_may_drop_an_object_and_set_up_a_parameter(flag: bool) -> None:
    model = Planned(flag)
    closure = LossClosure(model)
    assert closure.record(model) == closure() == 9.0
    assert model.plan is None
    with torch.no_grad():
        model.scale.fill_(2.0)
    assert closure() == 4.0
    assert float(model.scale) == 2.0


def test_a_loss_may_need_gradients_from_a_later_step_on(arguments: Any) -> None:
    class Penalized(SLSTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            embedded = model.get_input_embeddings()(inputs["input_ids"])
            loss = model(inputs_embeds=embedded, labels=inputs["labels"]).loss
            if self.state.global_step >= 3:
                (gradient,) = torch.autograd.grad(loss, embedded, create_graph=True)
                loss = loss + gradient.square().sum()
            return loss

    trainer = Penalized(model=tiny_bert(), args=arguments(max_steps=8), train_dataset=classification_rows())
    trainer.train()
    assert trainer.line_search_optimizer.param_groups[0]["line_search"]["initial_step"]["batches"] == 7


def test_state_that_is_not_put_back_is_told_of_though_it_is_empty_at_first(arguments: Any) -> None:
    class Memory:
        mean: Any = 0.0

    class Remembering(SLSTrainer):
        memory = Memory()

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            logits = model(input_ids=inputs["input_ids"]).logits
            loss = nn.functional.cross_entropy(logits - self.memory.mean, inputs["labels"])
            self.memory.mean = self.memory.mean + torch.tensor([1.0, -1.0]) if self.state.global_step >= 2 else 0.0
            return loss

    trainer = Remembering(model=tiny_bert(), args=arguments(max_steps=8), train_dataset=classification_rows())
    with pytest.warns(UserWarning, match="when it is evaluated again with the same parameters"):
        trainer.train()


def test_replay_differs_when_the_parameters_do(arguments: Any) -> None:
    """The equality above is not that of a stored number."""

    class Moved(TrainerCallback):
        losses: list[tuple[float, float]] = []

        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            self.losses.append((float(trainer.window.loss), float(trainer.window())))

    moved = Moved()
    args = arguments(optim_args="search_rate=inf")
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[moved])
    trainer.train()
    assert all(after < before for before, after in moved.losses)


def test_the_random_stream_is_that_of_a_run_without_trials(arguments: Any) -> None:
    """Dropout of the later steps and the order of the data do not depend on how many trials there were."""
    drawn = []
    for settings in (
        "init_step_size=1e-5",
        "look_back=false,max_trials=50,shrink=0.9,interpolate=false,init_step_size=10",
    ):
        args = arguments(optim_args=f"search_rate=inf,{settings}")
        trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
        trainer.train()
        drawn.append((trainer.line_search_optimizer.counts["trials"], torch.rand(3), random.random(), np.random.rand()))
    (few, *first), (many, *second) = drawn
    assert few < many
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]
