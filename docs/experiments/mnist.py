"""A perceptron with two hidden layers on MNIST.

    python docs/experiments/mnist.py --optim adam_sls
    python docs/experiments/mnist.py --optim adamw_torch --learning_rate 1e-3 --width 512

Takes the arguments of `TrainingArguments` beside those below, and adds the run to docs/results/experiments.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import accuracy, parse_arguments, run
from images import load_images
from torch import Tensor, nn


@dataclass
class MnistArguments:
    """Which data, and how wide the network is."""

    data_path: list[str] | None = field(
        default=None, metadata={"help": "One npz file, or two parquet files, to train and test; else from the Hub."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on a sample of so many images."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on a sample of so many images."})
    width: int = field(default=256, metadata={"help": "Units in each hidden layer."})


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


def main() -> None:
    """Run the script."""
    experiment, args = parse_arguments(
        MnistArguments, num_train_epochs=5, per_device_train_batch_size=128, per_device_eval_batch_size=500
    )
    if experiment.width < 1:
        raise ValueError(f"width={experiment.width} is not allowed: an integer of at least 1 is needed.")
    train, test = load_images("mnist", experiment.data_path, experiment.max_train_samples, experiment.max_eval_samples)
    run("mnist", experiment, args, lambda: Perceptron(experiment.width), train, test, accuracy)


if __name__ == "__main__":
    main()
