"""The experiments run end to end on made-up files, and their pages say what their results say."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

EXPERIMENTS = Path(__file__).parent.parent / "docs" / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import common
import figures
import glue
import images
import kinds
import language
import mnist
import pages
import tables
import vision
from results import read_results
from rules import rules_of

from .glue import glue_dir

QUICK = ["--max_steps", "3", "--per_device_train_batch_size", "4", "--use_cpu", "true", "--disable_tqdm", "true"]
TINY_TEXT = ["--vocabulary", "256", "--sequence_length", "8", "--layers", "1", "--width", "8", "--heads", "2"]


def run(monkeypatch: pytest.MonkeyPatch, results: Path, script: ModuleType, *arguments: str) -> list[dict[str, Any]]:
    output = ["--output_dir", str(results.parent / "out"), "--results_file", str(results)]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *QUICK, *output, *arguments])
    script.main()
    return read_results(results)


def image_arrays(size: int, channels: int, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    shape = (count, size, size, channels)[: 4 if channels > 1 else 3]
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), np.arange(count) % 10


def npz(path: Path, size: int, channels: int) -> str:
    pictures, labels = image_arrays(size, channels)
    np.savez(path, x_train=pictures, y_train=labels, x_test=pictures[:5], y_test=labels[:5])
    return str(path)


def parquet(path: Path, size: int, channels: int) -> list[str]:
    pictures, labels = image_arrays(size, channels)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": list(pictures), "label": labels}, features=features)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    encoded = datasets.Dataset.from_dict({"image": [row["bytes"] for row in rows["image"]], "label": labels})
    files = [path / "train.parquet", path / "test.parquet"]
    for file in files:
        encoded.to_parquet(file)
    return list(map(str, files))


def text_file(path: Path) -> str:
    content = "To be, or not to be, that is the question.\n" * 20
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(content.encode()))
    else:
        path.write_text(content)
    return str(path)


def test_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data_path", npz(tmp_path / "mnist.npz", 28, 1), "--width", "8"]
    (record,) = run(monkeypatch, tmp_path / "results.jsonl", mnist, *data)
    assert record["task"] == "mnist"
    assert record["parameters"] == 784 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10
    assert len(record["losses"]) == len(record["step_sizes"]) == 3
    assert record["evaluations"][-1]["epoch"] == 1
    assert 0 <= record["evaluations"][-1]["accuracy"] <= 1
    assert record["forward_passes_per_step"] in (3.0, 3.3333)  # five trials, with one check or two
    assert record["settings"]["learning_rate"] is None
    assert (record["settings"]["train_samples"], record["settings"]["eval_samples"]) == (12, 5)
    assert str(tmp_path) not in (tmp_path / "results.jsonl").read_text()


def test_a_stock_optimizer_shows_its_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data_path", npz(tmp_path / "mnist.npz", 28, 1), "--width", "8"]
    stock = ["--optim", "sgd", "--optim_args", "momentum=0.9", "--learning_rate", "0.02"]
    constant = ["--lr_scheduler_type", "constant"]
    (record,) = run(monkeypatch, tmp_path / "results.jsonl", mnist, *data, *stock, *constant)
    assert record["step_sizes"] == [0.02] * 3
    assert record["forward_passes_per_step"] == 1
    assert "SGD" in record["optimizer"]
    assert "momentum=0.9" in record["optimizer"]


def test_a_finished_run_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data_path", npz(tmp_path / "mnist.npz", 28, 1), "--width", "8"]
    first = run(monkeypatch, tmp_path / "results.jsonl", mnist, *data)
    assert run(monkeypatch, tmp_path / "results.jsonl", mnist, *data) == first
    assert len(run(monkeypatch, tmp_path / "results.jsonl", mnist, *data, "--seed", "1")) == 2
    assert len(run(monkeypatch, tmp_path / "results.jsonl", mnist, *data, "--optim_args", "c=0.2")) == 3


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny_imagenet"])
def test_vision(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--dataset", dataset, "--data_path", *parquet(tmp_path, 16, 3), "--width", "2"]
    (record,) = run(monkeypatch, tmp_path / "results.jsonl", vision, *data)
    assert record["task"] == dataset
    assert np.isfinite(record["losses"]).all()
    assert record["evaluations"][-1]["accuracy"] <= 1


def test_resnet34_is_the_published_one() -> None:
    model = vision.resnet34(64, 1000)
    convolutions = [module for module in model.modules() if isinstance(module, vision.nn.Conv2d)]
    assert len([module for module in convolutions if module.kernel_size == (3, 3)]) == 33
    stem = 3 * 64 * (7 * 7 - 3 * 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_797_672 - stem
    hidden = model.resnet.embedder(vision.nn.Parameter(images.torch.zeros(1, 3, 32, 32)))
    assert hidden.shape == (1, 64, 32, 32)


@pytest.mark.parametrize("name", ["play.txt", "play.txt.xz"])
def test_language(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data_path", text_file(tmp_path / name), *TINY_TEXT]
    (record,) = run(monkeypatch, tmp_path / "results.jsonl", language, *data, "--optim", "plasls")
    assert record["losses"][0] == pytest.approx(np.log(256), abs=0.3)
    assert record["evaluations"][-1].keys() == {"epoch", "loss"}
    assert record["settings"]["train_samples"] == 860 * 9 // 10 // 8
    assert record["settings"]["dataset_name"] == "play"


def test_glue(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--task_name", "mnli", "--data_dir", str(glue_dir(tmp_path / "data", "mnli"))]
    (record,) = run(
        monkeypatch, tmp_path / "results.jsonl", glue, *data, "--model_name_or_path", str(model_dir), "--max_steps", "2"
    )
    assert record["task"] == "mnli"
    assert record["settings"]["batch_size"] == 4
    assert len(record["losses"]) == 2
    assert str(tmp_path) not in (tmp_path / "results.jsonl").read_text()


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_each_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        kinds.mnist: lambda: [npz(tmp_path / "mnist.npz", 28, 1)],
        kinds.cifar10: lambda: parquet(tmp_path, 32, 3),
        kinds.text: lambda: [text_file(tmp_path / "play.txt")],
        kinds.masked: lambda: [text_file(tmp_path / "play.txt")],
    }
    load, _ = kinds.KINDS[kind]
    data = ["--data_path", *files[load]()] if load in files else []
    (record,) = run(monkeypatch, tmp_path / "results.jsonl", kinds, "--kind", kind, "--logging_steps", "1", *data)
    assert record["task"] == kind
    assert record["settings"]["kind"] == kind
    assert len(record["losses"]) == 3
    assert np.isfinite([*record["losses"], record["evaluations"][-1]["loss"]]).all()


def test_the_loss_of_the_variational_autoencoder() -> None:
    torch.manual_seed(0)
    model, pixels = kinds.Autoencoder(variational=True), torch.randn(4, 1, 28, 28)
    mean, log_variance = model.encoder(pixels).chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    torch.manual_seed(1)
    decoded = model.decoder(mean + posterior.scale * torch.randn_like(mean))
    likelihood = torch.distributions.Normal(decoded, 1.0).log_prob(pixels.flatten(1)).sum(dim=1)
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    constant = 784 / 2 * np.log(2 * np.pi)
    torch.manual_seed(1)
    loss = model(pixel_values=pixels, labels=torch.zeros(4))["loss"]
    torch.testing.assert_close(loss, (divergence - likelihood - constant).mean(), rtol=1e-4, atol=0.0)


def test_the_made_up_rows_are_what_they_say() -> None:
    train, test = kinds.measurements(50.0, 200.0)(None)
    labels = train["labels"][:]
    assert (len(train), len(test)) == (4000, 1000)
    assert float(labels.mean()) == pytest.approx(200, abs=15)
    rare = kinds.KINDS["rare_class"][0](None)[0]["labels"][:]
    assert 0.01 < float(rare.float().mean()) < 0.1
    tokens = kinds.reversed_rows(None)[0][:2]
    assert torch.equal(tokens["labels"].flip(1), tokens["input_ids"])


def test_a_masked_byte_is_its_label(tmp_path: Path) -> None:
    path = [text_file(tmp_path / "play.txt")]
    (train, _), (plain, _) = kinds.masked(path), kinds.text(path)
    hidden = train["input_ids"][:] == 256
    assert 0.05 < float(hidden.float().mean()) < 0.3
    assert torch.equal(train["labels"][:][hidden], plain["labels"][:][hidden])
    assert bool((train["labels"][:][~hidden] == -100).all())


@pytest.mark.parametrize("name", images.IMAGE_SETS)
def test_images_of_the_hub_and_of_files_are_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = images.IMAGE_SETS[name]
    channels = len(kind.mean)
    pictures, labels = image_arrays(8, channels)
    features = datasets.Features({kind.image_column: datasets.Image(), kind.label_column: datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({kind.image_column: list(pictures), kind.label_column: labels}, features=features)
    asked = []
    monkeypatch.setattr(
        images.datasets, "load_dataset", lambda name: asked.append(name) or {"train": rows, kind.test_split: rows}
    )
    sources = (None, parquet(tmp_path, 8, channels), [npz(tmp_path / "images.npz", 8, channels)])
    loaded = [images.load_images(name, source, None, None)[0] for source in sources]
    assert asked == [kind.hub_name]
    for data in loaded:
        expected = (pictures[3].reshape(8, 8, channels) / 255 - np.array(kind.mean)) / np.array(kind.deviation)
        item = data[3]
        np.testing.assert_allclose(item["pixel_values"].permute(1, 2, 0), expected, rtol=1e-4, atol=1e-5)
        assert item["labels"] == labels[3]


def test_text_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    split = datasets.Dataset.from_dict({"text": ["one\n", "two\n"]})
    monkeypatch.setattr(
        language.datasets, "load_dataset", lambda *names: asked.append(names) or {"train": split, "validation": split}
    )
    assert language.load_texts(language.LanguageArguments()) == ("one\ntwo\n", "one\ntwo\n")
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1")]


def test_a_sample_is_the_same_each_time_and_not_the_beginning() -> None:
    pictures, labels = image_arrays(4, 1, count=100)
    _, ordered = pictures, np.sort(labels)
    first, second = (images.sample(pictures, ordered, 40)[1] for _ in range(2))
    assert (first == second).all()
    assert len(set(first)) == 10
    assert len(images.sample(pictures, ordered, 1000)[1]) == 100


ERRORS = {
    "unknown data set": (vision, ["--dataset", "svhn"], "dataset='svhn' is unknown; the data sets are mnist, cifar10"),
    "missing file": (mnist, ["--data_path", "nowhere.npz"], "data_path='nowhere.npz' is not a file"),
    "missing text": (language, ["--data_path", "nowhere.txt"], "data_path='nowhere.txt' is not a file"),
    "no width": (mnist, ["--width", "0"], "width=0 is not allowed"),
    "more noise than labels": (mnist, ["--label_noise", "1.5"], "label_noise=1.5 is not allowed"),
    "unknown kind": (kinds, ["--kind", "gan"], "kind='gan' is unknown; the kinds are linear, deep_perceptron"),
    "small vocabulary": (language, ["--vocabulary", "10"], "vocabulary=10 is not allowed"),
    "regression": (glue, ["--task_name", "stsb", "--model_name_or_path", "m"], "task_name='stsb' is a regression"),
    "no rows": (glue, ["--max_train_samples", "0", "--model_name_or_path", "m"], "max_train_samples=0 is not allowed"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_each_error(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, arguments, message = ERRORS[error]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(monkeypatch, tmp_path / "results.jsonl", script, *arguments)
    assert not (tmp_path / "results.jsonl").exists()


def test_a_wrong_number_of_files_is_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path, 8, 3)[0]
    with pytest.raises(ValueError, match="one npz file or two parquet files are needed"):
        images.load_images("cifar10", [file], None, None)


def test_a_text_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="the training text has 7 tokens"):
        language.sequences([0] * 7, 8, None, "training")


def made_up(task: str, seed: int, losses: list[float | None], step_sizes: list[float], **settings: Any) -> Any:
    return {
        "task": task,
        "settings": {"optim": "adam_sls", "learning_rate": None, "seed": seed, **settings},
        "losses": losses,
        "step_sizes": step_sizes,
        "evaluations": [{"epoch": 1.0, "loss": 0.5, "accuracy": 0.25}],
        "forward_passes_per_step": 1.5,
        "train_seconds": 2.0,
        "versions": {"hf_sls": "1"},
        "device": "cpu",
        "parameters": 10,
    }


def test_the_exponent_of_a_power_law(tmp_path: Path) -> None:
    law = tables.Law("law", [tables.Curve("rule", "mnist", {})], "batch_size", "batch size")
    runs = [
        made_up("mnist", seed, [1.0], [3e-4 * batch ** (0.5 + 0.1 * seed)] * 4, batch_size=batch)
        for seed in (-1, 0, 1)
        for batch in (4, 8, 16)
    ]
    text = law.results(runs, tmp_path / "law.png")
    error = 0.1 / np.sqrt(3)
    assert f"| rule | 3 | 0.50 ± {error:.2f} |" in text
    assert f"| {3e-4 * 4**0.5:.2e} |" in text
    assert tables.fit({4: [1.0], 16: [8.0]}) == pytest.approx((1.5, np.log(1 / 8)))


def test_a_row_of_a_comparison(tmp_path: Path) -> None:
    losses = [np.exp(-1.0)] * 38 + [0.1, 0.3]
    runs = [made_up("mnist", seed, losses, [1e-3, 2e-3] * 20, width=4) for seed in (0, 1)]
    runs.append(made_up("mnist", 0, [1.0, None], [1e-3] * 2, width=5))
    lines = [tables.Curve("a", "mnist", {"width": 4}), tables.Curve("b", "mnist", {"width": 5})]
    text = tables.Comparison("page", lines).results(runs, tmp_path / "page.png")
    mean_log = (38 * -1.0 + np.log(0.1) + np.log(0.3)) / 40
    change = f"{100 * np.log(2):.1f} %"
    assert f"| a | 2 | 0.2 (0.2 to 0.2) | {mean_log:.3f} | 0.250 (0.250 to 0.250) | {change} | 1.50 | 2.0 |" in text
    assert "| b | 1 | not finite | nan |" in text
    assert Image.open(tmp_path / "page.png").text["Description"] == tables.fingerprint(runs)


def test_a_variation_has_a_table_for_each_setting(tmp_path: Path) -> None:
    runs = [
        made_up("mnist", seed, [loss] * 20, [1e-3], width=width, label_noise=noise)
        for seed, loss in ((0, 0.1), (1, 0.4))
        for width, noise in ((4, 0.0), (8, 0.0), (4, 0.5))
    ]
    line = tables.Curve("sls", "mnist", {"width": 4, "label_noise": 0.0})
    page = tables.Variation("page", [line], {"width": (4, 8, 16), "label_noise": (0.0, 0.5)})
    text = page.results(runs, tmp_path / "page.png")
    rows = [row for row in text.splitlines() if row.startswith("|")]
    full = "0.2 / 0.250"
    assert rows == [
        *("| `width` | sls |", "| --- | --- |", f"| 4 | {full} |", f"| 8 | {full} |", "| 16 |  |"),
        *("| `label_noise` | sls |", "| --- | --- |", f"| 0 | {full} |", f"| 0.5 | {full} |"),
    ]
    assert text.startswith("6 runs")
    assert Image.open(tmp_path / "page.png").text["Description"]


def test_a_page_of_ratios(tmp_path: Path) -> None:
    def runs(task: str, rate: float | None, *losses: float) -> list[Any]:
        made = [made_up(task, seed, [1.0], [1e-3, 2e-3], learning_rate=rate) for seed in range(len(losses))]
        for run, loss in zip(made, losses):
            run["evaluations"][-1]["loss"] = loss
        return made

    records = [*runs("one", None, 0.1, 0.4), *runs("one", 1e-3, 0.1, 0.1), *runs("one", 1e-2, 0.4, 0.4)]
    records += [*runs("two", None, 3.0), *runs("two", 1e-3, 16.0), *runs("two", 1e-2, 4.0)]
    lines = [
        tables.Curve(label, task, {"learning_rate": rate})
        for task in ("one", "two")
        for label, rate in (("sls", None), ("low", 1e-3), ("high", 1e-2))
    ]
    text = tables.Ratios("page", lines).results(records, tmp_path / "page.png")
    rows = [row for row in text.splitlines() if row.startswith("|")][2:]
    assert rows == [
        "| `one` | 2.00 | 1.00 | 4.00 | 0.2 (0.1 to 0.4) | 2.0e-03 (2.0e-03 to 2.0e-03) | 1.50 |",
        "| `two` | 0.75 | 4.00 | 1.00 | 3 | 2.0e-03 | 1.50 |",
        f"| geometric mean | {1.5**0.5:.2f} | 2.00 | 2.00 |  |  |  |",
        "| largest | 2.00 | 4.00 | 4.00 |  |  |  |",
    ]
    assert Image.open(tmp_path / "page.png").text["Description"] == tables.fingerprint(records)


def test_label_noise() -> None:
    labels = torch.arange(10).repeat(1000)
    assert torch.equal(mnist.with_noise(labels, 0.0, seed=0), labels)
    noisy = mnist.with_noise(labels, 0.4, seed=0)
    assert float((noisy != labels).float().mean()) == pytest.approx(0.4 * 0.9, abs=0.02)
    assert torch.equal(noisy, mnist.with_noise(labels, 0.4, seed=0))
    assert not torch.equal(noisy, mnist.with_noise(labels, 0.4, seed=1))
    assert torch.bincount(noisy).float().std() < 40


def test_the_figure_shows_the_best_learning_rate_of_each_stock_optimizer() -> None:
    def group(loss: float | None, optim: str, rate: float | None) -> list[Any]:
        return [made_up("mnist", 0, [loss], [1.0], optim=optim, learning_rate=rate)]

    groups = {
        "sls": group(0.9, "adam_sls", None),
        "adam low": group(0.5, "adamw_torch", 1e-4),
        "adam middle": group(0.2, "adamw_torch", 1e-3),
        "adam high": group(None, "adamw_torch", 1e-2),
        "sgd high": group(None, "sgd", 1.0),
        "sgd low": group(0.7, "sgd", 0.1),
    }
    assert list(tables.shown(groups)) == ["sls", "adam middle", "sgd low"]


def test_the_curves_are_those_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[figures.Figure] = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    runs = [made_up("mnist", seed, [0.5 * 4**seed, 0.1], [1e-3, 1e-4 * 4**seed]) for seed in (0, 1)]
    figures.draw_curves({"sls": runs}, "accuracy", tmp_path / "one evaluation.png", "")
    assert len(drawn.pop().axes) == 2
    for run in runs:
        run["evaluations"] += [{"epoch": 2.0, "loss": 0.4, "accuracy": 0.5}]
    figures.draw_curves({"sls": runs}, "accuracy", tmp_path / "a.png", "")
    loss, step_size, score = drawn[0].axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1.0, 0.1])
    np.testing.assert_allclose(step_size.lines[0].get_ydata(), [1e-3, 2e-4])
    assert score.lines[0].get_xydata().tolist() == [[1.0, 0.25], [2.0, 0.5]]
    assert [axis.get_yscale() for axis in drawn[0].axes] == ["log", "log", "linear"]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_each_page_is_up_to_date(page: Any, tmp_path: Path) -> None:
    records = read_results(common.RESULTS)
    text = (EXPERIMENTS / f"{page.name}.md").read_text(encoding="utf-8")
    figure = tmp_path / f"{page.name}.png"
    assert pages.with_results(page, text, records, figure) == text
    assert Image.open(figure).text["Description"] == Image.open(EXPERIMENTS / figure.name).text["Description"]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_results_of_a_page_are_those_of_the_present_rules(page: Any) -> None:
    """After a change of recommended settings the commands of the page run anew what it changes."""
    records = read_results(common.RESULTS)
    for line in page.lines:
        for record in line.select(records):
            rules = rules_of(record["settings"]["optim"], record["settings"]["optim_args"])
            assert rules in (None, record["optimizer"]), line.label


def test_the_index_is_up_to_date() -> None:
    """One entry per page: title, the first sentence of the outcome, and the figure."""
    text = (EXPERIMENTS / "index.md").read_text(encoding="utf-8")
    assert pages.with_index(text) == text
    for page in pages.PAGES:
        outcome = (EXPERIMENTS / f"{page.name}.md").read_text(encoding="utf-8").split("## Outcome\n\n")[1]
        assert f"]({page.name}.png)]({page.name}.md)" in text
        assert " ".join(outcome.split())[:40] in text
    assert len(text.split("```{toctree}")[1].split("```")[0].split()) == 1 + len(pages.PAGES)


def test_a_page_without_an_outcome_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist.md").write_text("# MNIST\n\n## Results\n")
    monkeypatch.setattr(pages, "HERE", tmp_path)
    with pytest.raises(ValueError, match=r"mnist\.md needs a title and a section '## Outcome'"):
        pages.with_index("")


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mnist\.md has no line"):
        pages.with_results(pages.PAGES[0], "no markers", [], tmp_path / "figure.png")
