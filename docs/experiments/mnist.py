"""A perceptron with two hidden layers on MNIST.

    python docs/experiments/mnist.py --optim adam_sls
    python docs/experiments/mnist.py --optim adamw_torch --learning_rate 1e-3 --width 512 --label_noise 0.2

Takes the arguments of `TrainingArguments` beside those below, and adds the run to docs/results/experiments.jsonl.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
from common import accuracy, parse_arguments, run
from images import load_images
from torch import Tensor, nn


@dataclass
class MnistArguments:
    """The data, and the width of the network."""

    data_path: list[str] | None = field(
        default=None, metadata={"help": "One npz file, or two parquet files (train, test); by default the Hub."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on a sample of so many images."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on a sample of so many images."})
    width: int = field(default=256, metadata={"help": "Units in each hidden layer."})
    label_noise: float = field(default=0.0, metadata={"help": "Fraction of the training images with a random label."})

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width={self.width} is not allowed: an integer of at least 1 is needed.")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise={self.label_noise} is not allowed: a fraction from 0 to 1 is needed.")


class Perceptron(nn.Module):
    """784 inputs, two hidden layers with ReLU, 10 outputs; returns what a model of transformers does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def with_noise(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return the labels, of shape (images,), with a random fraction of them drawn anew from all ten classes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(10, labels.shape, generator=generator)
    chosen = torch.rand(labels.shape, generator=generator) < fraction
    return torch.where(chosen, drawn, labels)


def main() -> None:
    """Run the script."""
    experiment, args = parse_arguments(
        MnistArguments, num_train_epochs=5, per_device_train_batch_size=128, per_device_eval_batch_size=500
    )
    train, test = load_images("mnist", experiment.data_path, experiment.max_train_samples, experiment.max_eval_samples)
    train.labels = with_noise(train.labels, experiment.label_noise, args.seed)
    run("mnist", asdict(experiment), args, lambda: Perceptron(experiment.width), train, test, accuracy)


if __name__ == "__main__":
    main()
