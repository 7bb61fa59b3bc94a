"""One small model of many kinds, from random weights, 200 steps of 32 rows.

    python docs/experiments/kinds.py --kind llama --optim adam_sls
    python docs/experiments/kinds.py --kind vae --data_path mnist.npz --optim adamw_torch --learning_rate 1e-3

Takes the arguments of `TrainingArguments` beside those below, and adds the run to docs/results/experiments.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import datasets
import torch
import transformers
from common import parse_arguments, run
from images import load_images
from language import TextArguments, load_texts, sequences
from torch import Tensor, nn
from torch.nn import functional

Halves = tuple[Any, Any]
"""The rows to train on and those to evaluate on."""


@dataclass
class KindArguments:
    """Which kind, and where its data are."""

    kind: str = field(default="llama", metadata={"help": "What to train; a name in KINDS."})
    data_path: list[str] | None = field(
        default=None, metadata={"help": "Files with the images or the text of the kind; by default the Hub."}
    )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown; the kinds are {', '.join(KINDS)}.")


class Supervised(nn.Module):
    """A network with a loss of its output and the labels; returns what a model of transformers does."""

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        (rows,) = inputs.values()
        outputs = self.network(rows)
        return {"loss": self.loss(outputs, labels), "logits": outputs}


def classifier(*layers: nn.Module, label_smoothing: float = 0.0) -> Supervised:
    """Return the layers, on flattened rows, with cross-entropy."""
    return Supervised(nn.Sequential(nn.Flatten(), *layers), nn.CrossEntropyLoss(label_smoothing=label_smoothing))


def regressor() -> Supervised:
    """Return a perceptron on 20 features with the mean squared error."""
    return Supervised(nn.Sequential(*hidden(20, 64, 2), nn.Linear(64, 1), nn.Flatten(0)), nn.MSELoss())


def hidden(inputs: int, width: int, depth: int, dropout: float = 0.0) -> list[nn.Module]:
    """Return `depth` hidden layers with ReLU."""
    layers: list[nn.Module] = []
    for size in [inputs, *[width] * (depth - 1)]:
        layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)]
    return layers


class Autoencoder(nn.Module):
    """A perceptron that gives an image back through 16 numbers; with `variational`, drawn from a normal distribution.

    The loss is the mean squared error, or the negative evidence lower bound of an image (Kingma and Welling, 2013).
    """

    def __init__(self, variational: bool = False) -> None:
        super().__init__()
        self.variational = variational
        self.encoder = nn.Sequential(nn.Flatten(), *hidden(784, 128, 1), nn.Linear(128, 32 if variational else 16))
        self.decoder = nn.Sequential(*hidden(16, 128, 1), nn.Linear(128, 784))

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        target, code = pixel_values.flatten(1), self.encoder(pixel_values)
        if not self.variational:
            return {"loss": functional.mse_loss(self.decoder(code), target)}
        mean, log_variance = code.chunk(2, dim=1)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        error = (self.decoder(drawn) - target).square().sum(dim=1) / 2
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return {"loss": (error + divergence).mean()}


class Recurrent(nn.Module):
    """Embedding, a recurrent layer and a linear one, which predicts the next byte."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 64)
        self.recurrent = layer(64, 128, batch_first=True)
        self.output = nn.Linear(128, 256)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.output(self.recurrent(self.embedding(input_ids))[0])
        return {"loss": functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}


class Factorization(nn.Module):
    """Each user and each item has eight factors; their product is the rating."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(300, 8), nn.Embedding(200, 8)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, pairs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        ratings = (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(dim=1)
        return {"loss": functional.mse_loss(ratings, labels)}


def llama() -> nn.Module:
    """Return a Llama of three blocks, on bytes."""
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=256, **sizes, **heads))


def bert() -> nn.Module:
    """Return a BERT of two blocks, on bytes and a mask."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=257, max_position_embeddings=64, **sizes))


def t5() -> nn.Module:
    """Return a T5 of two blocks a side, without dropout."""
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=32, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)
    )


def vit() -> nn.Module:
    """Return a vision transformer of three blocks, on 64 patches."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=32, patch_size=4, num_labels=10, **sizes)
    )


def convnext() -> nn.Module:
    """Return a ConvNeXt of three stages, whose blocks start at a millionth of their size."""
    return transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(
            patch_size=2, num_stages=3, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], num_labels=10
        )
    )


def convolutions() -> nn.Module:
    """Return three convolutions without normalization."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return Supervised(nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10)), nn.CrossEntropyLoss())


def mnist(data_path: list[str] | None) -> Halves:
    """Return 6,000 images and 1,000."""
    return load_images("mnist", data_path, 6000, 1000)


def cifar10(data_path: list[str] | None) -> Halves:
    """Return 2,000 images and 500."""
    return load_images("cifar10", data_path, 2000, 500)


def text(data_path: list[str] | None) -> Halves:
    """Return 3,200 pieces of 64 bytes and 200."""
    halves = load_texts(TextArguments(data_path=data_path[0] if data_path else None))
    train, test = (list(half.encode()) for half in halves)
    return sequences(train, 64, 3200, "training"), sequences(test, 64, 200, "evaluation")


def masked(data_path: list[str] | None) -> Halves:
    """Return the pieces of text with 15 % of their bytes masked; the labels are these bytes."""
    generator = torch.Generator().manual_seed(0)

    def hide(rows: datasets.Dataset) -> datasets.Dataset:
        ids = rows["input_ids"][:]
        hidden_ones = torch.rand(ids.shape, generator=generator) < 0.15
        return table(input_ids=ids.masked_fill(hidden_ones, 256), labels=ids.masked_fill(~hidden_ones, -100))

    train, test = text(data_path)
    return hide(train), hide(test)


def table(**columns: Tensor) -> datasets.Dataset:
    """Return a data set of these columns."""
    return datasets.Dataset.from_dict({name: values.numpy() for name, values in columns.items()}).with_format("torch")


def halves_of(**columns: Tensor) -> Halves:
    """Return all rows but the last 1,000, and these."""
    return (
        table(**{name: values[:-1000] for name, values in columns.items()}),
        table(**{name: values[-1000:] for name, values in columns.items()}),
    )


def measurements(scale: float, shift: float) -> Callable[[Any], Halves]:
    """Return made-up rows whose label is a perceptron's output with a tenth of noise, scaled and shifted."""

    def make(_: Any) -> Halves:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(5000, 20, generator=generator)
        inner, outer = torch.randn(20, 16, generator=generator) / 20**0.5, torch.randn(16, generator=generator)
        labels = (features @ inner).tanh() @ outer + 0.1 * torch.randn(5000, generator=generator)
        return halves_of(features=features, labels=scale * labels + shift)

    return make


def linear_classes(deviations: Tensor, threshold: float) -> Callable[[Any], Halves]:
    """Return made-up rows of two classes: whether a noisy linear function of the features is above a threshold."""

    def make(_: Any) -> Halves:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(5000, len(deviations), generator=generator)
        weights = functional.normalize(torch.randn(len(deviations), generator=generator), dim=0)
        values = features @ weights + 0.3 * torch.randn(5000, generator=generator)
        return halves_of(features=features * deviations, labels=(values > threshold).long())

    return make


def ratings(_: Any) -> Halves:
    """Return made-up ratings by 300 users of 200 items, of four factors and noise."""
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(300, 4, generator=generator), torch.randn(200, 4, generator=generator)
    pairs = torch.stack([torch.randint(len(of), (9000,), generator=generator) for of in (users, items)], dim=1)
    labels = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(dim=1) / 2 + 0.3 * torch.randn(9000, generator=generator)
    return halves_of(pairs=pairs, labels=labels)


def reversed_rows(_: Any) -> Halves:
    """Return made-up rows of eight tokens, whose labels are the same in reverse."""
    tokens = torch.randint(2, 32, (5000, 8), generator=torch.Generator().manual_seed(0))
    return halves_of(input_ids=tokens, labels=tokens.flip(1))


KINDS: dict[str, tuple[Callable[[list[str] | None], Halves], Callable[[], nn.Module]]] = {
    "linear": (mnist, lambda: classifier(nn.Linear(784, 10))),
    "deep_perceptron": (mnist, lambda: classifier(*hidden(784, 128, 6), nn.Linear(128, 10))),
    "wide_perceptron": (mnist, lambda: classifier(*hidden(784, 1024, 1), nn.Linear(1024, 10))),
    "dropout": (mnist, lambda: classifier(*hidden(784, 256, 2, dropout=0.5), nn.Linear(256, 10))),
    "label_smoothing": (mnist, lambda: classifier(*hidden(784, 256, 2), nn.Linear(256, 10), label_smoothing=0.1)),
    "autoencoder": (mnist, Autoencoder),
    "vae": (mnist, lambda: Autoencoder(variational=True)),
    "convolutions": (cifar10, convolutions),
    "vit": (cifar10, vit),
    "convnext": (cifar10, convnext),
    "lstm": (text, lambda: Recurrent(nn.LSTM)),
    "gru": (text, lambda: Recurrent(nn.GRU)),
    "llama": (text, llama),
    "bert": (masked, bert),
    "t5": (reversed_rows, t5),
    "regression": (measurements(1.0, 0.0), regressor),
    "prices": (measurements(50.0, 200.0), regressor),
    "small_targets": (measurements(0.01, 0.0), regressor),
    "unscaled_features": (
        linear_classes(torch.logspace(-2, 2, 20), 0.0),
        lambda: classifier(*hidden(20, 64, 1), nn.Linear(64, 2)),
    ),
    "rare_class": (linear_classes(torch.ones(20), 2.0), lambda: classifier(*hidden(20, 64, 2), nn.Linear(64, 2))),
    "factorization": (ratings, Factorization),
}


def main() -> None:
    """Run the script."""
    experiment, args = parse_arguments(
        KindArguments,
        max_steps=200,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=100,
        logging_steps=10,
    )
    args.prediction_loss_only, args.remove_unused_columns = True, False
    load, build_model = KINDS[experiment.kind]
    run(experiment.kind, asdict(experiment), args, build_model, *load(experiment.data_path))


if __name__ == "__main__":
    main()
