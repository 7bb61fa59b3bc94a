"""ResNet-34 on CIFAR-10, CIFAR-100 or Tiny ImageNet.

    python docs/experiments/vision.py --dataset cifar10 --optim adam_sls
    python docs/experiments/vision.py --dataset cifar100 --optim sgd --optim_args momentum=0.9 --learning_rate 0.1

Takes the arguments of `TrainingArguments` beside those below, and adds the run to docs/results/experiments.jsonl.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from common import accuracy, parse_arguments, run
from images import IMAGE_SETS, load_images
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification


@dataclass
class VisionArguments:
    """Which data, and how wide the network is."""

    dataset: str = field(default="cifar10", metadata={"help": "cifar10, cifar100 or tiny_imagenet."})
    data_path: list[str] | None = field(
        default=None, metadata={"help": "Two parquet files, to train and test, or one npz file; else from the Hub."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on a sample of so many images."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on a sample of so many images."})
    width: int = field(default=64, metadata={"help": "Channels of the first stage, 64 in ResNet-34; the last has 8 x."})


def resnet34(width: int, classes: int) -> ResNetForImageClassification:
    """Return a ResNet-34 with random weights, whose stem is one 3 x 3 convolution that keeps the size of the image."""
    config = ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[3, 4, 6, 3],
        layer_type="basic",
        num_labels=classes,
    )
    model = ResNetForImageClassification(config)
    stem = model.resnet.embedder
    stem.embedder.convolution = nn.Conv2d(config.num_channels, width, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.embedder.convolution.weight, mode="fan_out", nonlinearity="relu")
    stem.pooler = nn.Identity()
    return model


def main() -> None:
    """Run the script."""
    experiment, args = parse_arguments(
        VisionArguments, num_train_epochs=20, per_device_train_batch_size=128, per_device_eval_batch_size=250
    )
    if experiment.width < 1:
        raise ValueError(f"width={experiment.width} is not allowed: an integer of at least 1 is needed.")
    train, test = load_images(
        experiment.dataset, experiment.data_path, experiment.max_train_samples, experiment.max_eval_samples
    )
    classes = IMAGE_SETS[experiment.dataset].classes
    run(
        experiment.dataset, asdict(experiment), args, lambda: resnet34(experiment.width, classes), train, test, accuracy
    )


if __name__ == "__main__":
    main()
