"""Labelled images: from the Hub by name, or from local files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch


@dataclass(frozen=True)
class ImageSet:
    """Where a data set is on the Hub, and how its values are distributed over [0, 1], channel by channel."""

    hub_name: str
    classes: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    image_column: str = "image"
    label_column: str = "label"
    test_split: str = "test"


IMAGE_SETS = {
    "mnist": ImageSet("ylecun/mnist", 10, (0.1307,), (0.3081,)),
    "cifar10": ImageSet("uoft-cs/cifar10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "img"),
    "cifar100": ImageSet(
        "uoft-cs/cifar100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), "img", "fine_label"
    ),
    "tiny_imagenet": ImageSet(
        "zh-plus/tiny-imagenet", 200, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821), test_split="valid"
    ),
}


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Images in memory as bytes; an item has normalized `pixel_values` of shape (channels, height, width)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, kind: ImageSet) -> None:
        channels = len(kind.mean)
        self.images = torch.from_numpy(images.reshape(*images.shape[:3], channels)).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self._mean = torch.tensor(kind.mean).view(channels, 1, 1)
        self._deviation = torch.tensor(kind.deviation).view(channels, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "pixel_values": (self.images[index] / 255 - self._mean) / self._deviation,
            "labels": self.labels[index],
        }


def load_images(
    name: str, data_path: list[str] | None, max_train_samples: int | None, max_eval_samples: int | None
) -> tuple[Images, Images]:
    """Return the images to train on and to test on.

    Args:
        name: one of `IMAGE_SETS`.
        data_path: two parquet files, to train on and to test on, with encoded images in the column `image` and ids in
            `label`; or one npz file with `x_train`, `y_train`, `x_test`, `y_test`; `None` for the Hub.
        max_train_samples: take a fixed random sample of so many; `None` for all.
        max_eval_samples: the same for the test.

    Raises:
        ValueError: the name is unknown, or the files are not of that kind.
        FileNotFoundError: a file is missing.
    """
    if name not in IMAGE_SETS:
        raise ValueError(f"dataset={name!r} is unknown; the data sets are {', '.join(IMAGE_SETS)}.")
    kind = IMAGE_SETS[name]
    for path in data_path or ():
        if not Path(path).is_file():
            raise FileNotFoundError(f"data_path={path!r} is not a file.")
    if not data_path:
        found = datasets.load_dataset(kind.hub_name)
        halves = [decoded(found[split], kind.image_column, kind) for split in ("train", kind.test_split)]
    elif [Path(path).suffix for path in data_path] == [".npz"]:
        with np.load(data_path[0]) as arrays:
            halves = [(arrays[f"x_{half}"], arrays[f"y_{half}"]) for half in ("train", "test")]
    elif [Path(path).suffix for path in data_path] == [".parquet", ".parquet"]:
        halves = [decoded(datasets.Dataset.from_parquet(path), "image", kind) for path in data_path]
    else:
        raise ValueError(f"data_path={data_path} is not allowed: one npz file or two parquet files are needed.")
    train, test = (
        sample(images, labels, limit)
        for (images, labels), limit in zip(halves, (max_train_samples, max_eval_samples), strict=True)
    )
    return Images(*train, kind), Images(*test, kind)


def decoded(rows: datasets.Dataset, column: str, kind: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Return all images as one array of bytes, and their labels."""
    rows = rows.cast_column(column, datasets.Image(mode="RGB" if len(kind.mean) == 3 else "L"))
    label_column = kind.label_column if kind.label_column in rows.column_names else "label"
    return np.stack([np.asarray(image) for image in rows[column]]), np.asarray(rows[label_column])


def sample(images: np.ndarray, labels: np.ndarray, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a random sample that is the same in each run; files may be in the order of the labels."""
    if limit is not None and limit < 1:
        raise ValueError(f"A limit of {limit} samples is not allowed: an integer of at least 1 is needed.")
    if limit is None or limit >= len(labels):
        return images, labels
    chosen = np.random.default_rng(0).permutation(len(labels))[:limit]
    return images[chosen], labels[chosen]
