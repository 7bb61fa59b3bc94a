"""`hf-sls`: what it prints and draws of runs on disk, and what it says where there is nothing to draw."""

from __future__ import annotations

import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure
from transformers import Trainer, TrainingArguments

from hf_sls import LineSearchCallback, SLSTrainer
from hf_sls.__main__ import main
from hf_sls.runs import Run, choose_metric

from .conftest import arguments_in, classification_rows, tiny_bert


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with a line search and its state saved, and one of the stock Trainer with AdamW and a checkpoint only."""
    rows, folder = classification_rows(), tmp_path_factory.mktemp("runs")
    arguments = arguments_in(folder)
    common = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3}
    args = arguments(output_dir=str(folder / "sls"), **common)
    callback = LineSearchCallback(landscape_steps=[1, 3])
    trainer = SLSTrainer(
        model=tiny_bert(),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[callback],
        compute_metrics=lambda prediction: {
            "accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()
        },
    )
    trainer.train()
    trainer.save_state()
    args = arguments(TrainingArguments, output_dir=str(folder / "adamw"), save_strategy="steps", save_steps=6, **common)
    Trainer(model=tiny_bert(), args=args, train_dataset=rows, eval_dataset=rows).train()
    return folder / "sls", folder / "adamw"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self))
    return figures


def history(run: Path) -> list[dict[str, Any]]:
    (file,) = [*run.glob("trainer_state.json"), *run.glob("checkpoint-*/trainer_state.json")]
    return json.loads(file.read_text())["log_history"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot_writes_a_picture(runs: tuple[Path, Path], suffix: str, tmp_path: Path) -> None:
    assert main(["plot", *map(str, runs), "--output", str(tmp_path / f"both{suffix}")]) == 0
    assert (tmp_path / f"both{suffix}").stat().st_size > 5000


def test_plot_draws_each_run_and_names_it(runs: tuple[Path, Path], drawn: list[Figure]) -> None:
    assert main(["plot", *map(str, runs)]) == 0
    loss, step_size, score = drawn[0].axes
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["sls", "adamw"]
    for index, run in enumerate(runs):
        steps = [entry for entry in history(run) if "loss" in entry]
        raw, mean = loss.lines[2 * index : 2 * index + 2]
        assert raw.get_ydata().tolist() == [entry["loss"] for entry in steps]
        assert len(mean.get_ydata()) == len(steps)
    assert loss.lines[1].get_linestyle() != loss.lines[3].get_linestyle()
    assert step_size.get_ylabel() == "step size, learning rate"
    assert score.get_ylabel() == "evaluation loss", "the first metric that both have"
    assert len(score.lines[0].get_xdata()) == len(score.lines[1].get_xdata()) == 2
    assert main(["plot", str(runs[0])]) == 0
    assert drawn[1].axes[2].get_ylabel() == "accuracy"


def test_a_stock_run_alone_shows_its_learning_rate(runs: tuple[Path, Path], drawn: list[Figure]) -> None:
    assert main(["plot", str(runs[1]), "--metric", "eval_loss"]) == 0
    _, learning_rate, score = drawn[0].axes
    assert (learning_rate.get_ylabel(), score.get_ylabel()) == ("learning rate", "evaluation loss")
    assert learning_rate.lines[0].get_ydata()[0] == pytest.approx(5e-5)


def test_compare_prints_the_numbers_of_the_logs(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, runs), "--metric", "eval_loss"]) == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["", "sls", "adamw", "adamw / sls"]
    table = {cells[0]: cells[1:] for cells in lines[2:]}
    for column, run in enumerate(runs):
        losses = [entry["loss"] for entry in history(run) if "loss" in entry]
        scores = [entry["eval_loss"] for entry in history(run) if "eval_loss" in entry]
        expected = {
            "final loss (last twentieth)": losses[-1],
            "mean log loss": sum(map(math.log, losses)) / 6,
            "loss, geometric mean": math.prod(losses) ** (1 / 6),
            "steps": 6,
            "best eval_loss": min(scores),
            "last eval_loss": scores[-1],
        }
        for name, value in expected.items():
            assert float(table[name][column]) == pytest.approx(value, rel=1e-3)
    (passes,) = [e["train_forward_passes_per_step"] for e in history(runs[0]) if "train_forward_passes_per_step" in e]
    assert float(table["forward passes per step"][0]) == pytest.approx(passes, rel=1e-3)
    assert table["forward passes per step"][1] == "1"
    assert table["train_runtime in s"][1] == "-"
    assert float(table["steps"][2]) == 1
    assert table["mean log loss"][2] == "-"


def test_landscape_draws_curve_line_slope_and_trials(runs: tuple[Path, Path], drawn: list[Figure]) -> None:
    assert main(["landscape", str(runs[0]), "--step", "3"]) == 0
    assert main(["landscape", str(runs[0] / "landscape.json")]) == 0
    entries = {entry["step"]: entry for entry in json.loads((runs[0] / "landscape.json").read_text())}
    axis, entry = drawn[0].axes[0], entries[3]
    lines = {line.get_label().removesuffix(" (further up)"): line for line in axis.lines}
    assert lines["loss of the batch"].get_ydata().tolist() == entry["losses"]
    end = entry["step_sizes"][-1]
    assert lines["slope at the start"].get_ydata()[1] == pytest.approx(entry["losses"][0] - entry["slope"] * end)
    assert lines["accepted below this line"].get_ydata()[1] == pytest.approx(entry["intercept"] - entry["rate"] * end)
    assert lines["accepted"].get_xydata().tolist() == [list(entry["tried"][-1])]
    assert axis.get_title().startswith("step 3: accepted, ")
    assert drawn[1].axes[0].get_title().startswith(f"step {max(entries)}: ")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["plot", "{tmp}/nowhere"], "There is no directory .*nowhere. A run is the output_dir of its Trainer"),
        (["plot", "{tmp}"], "has no trainer_state.json.*save_state"),
        (["plot", "{tmp}/empty"], "has no entry with a 'loss'.*logging_steps"),
        (["plot", "{tmp}/empty/trainer_state.json"], "has no entry with a 'loss'"),
        (["compare", "{tmp}/broken", "{tmp}/broken"], "is not a trainer_state.json"),
        (["plot", "{tmp}/good", "--metric", "eval_f1"], "--metric eval_f1 is not in the logs; they have eval_loss"),
        (["landscape", "{tmp}/good"], "There is no .*landscape.json.*landscape_steps"),
        (["landscape", "{tmp}/good/none.json"], "There is no .*none.json"),
        (["landscape", "{tmp}/recorded", "--step", "2"], "--step 2 was not recorded .*; recorded: none"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [{"loss": 1.0, "step": 1, "learning_rate": 1.0, "epoch": 1}, {"eval_loss": 1.0, "step": 1, "epoch": 1}]
    files = {
        "empty/trainer_state.json": json.dumps({"log_history": []}),
        "broken/trainer_state.json": "{",
        "good/trainer_state.json": json.dumps({"log_history": entries}),
        "recorded/landscape.json": "[]",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert main([part.format(tmp=tmp_path) for part in command]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(rf"hf-sls {command[0]}: .*{message}", printed.err), printed.err


@pytest.mark.parametrize(
    ("logged", "chosen"),
    [
        (["entropy", "num_tokens", "loss", "mean_token_accuracy", "runtime"], "loss"),
        (["rewards/accuracies", "logps/chosen", "loss"], "loss"),
        (["loss", "entropy", "my_score", "f1"], "my_score"),
        (["test_loss", "validation_loss"], "test_loss"),
        (["valid_entropy", "valid_loss"], "valid_loss"),
        (["entropy"], "entropy"),
        (["runtime", "samples_per_second"], None),
    ],
)
def test_the_metric_by_default(logged: list[str], chosen: str | None) -> None:
    """A score of the user's, else the loss of an evaluation, and only then what TRL logs beside it."""
    run = Run("", [{"loss": 1.0, "step": 1}, {f"eval_{name}": 1.0 for name in logged}])
    assert choose_metric([run]) == (chosen and f"eval_{chosen}")


def test_runs_are_compared_by_a_metric_that_they_share() -> None:
    def run(*metrics: str) -> Run:
        return Run("", [{"loss": 1.0, "step": 1}, {f"eval_{name}": 1.0 for name in metrics}])

    assert choose_metric([run("accuracy", "loss"), run("loss")]) == "eval_loss"
    assert choose_metric([run("f1", "accuracy"), run("accuracy", "f1")]) == "eval_f1"
    assert choose_metric([run("loss"), run("accuracy")]) == "eval_accuracy"


@pytest.mark.parametrize(
    ("metric", "best"),
    [("eval_f1", 3.0), ("eval_loss", 1.0), ("eval_entropy", 1.0), ("eval_wer", 1.0), ("eval_answer", 3.0)],
)
def test_the_best_value_of_a_metric(metric: str, best: float) -> None:
    entries = [{"loss": 1.0, "step": 1, "epoch": 1}, *({metric: value, "epoch": value} for value in (2.0, 1.0, 3.0))]
    assert Run("", entries).summary(metric)[f"best {metric}"] == best


def test_env_prints_the_versions_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    for value in (torch.__version__, transformers.__version__, "Python", "CPU"):
        assert value in printed


def test_the_module_is_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hf-sls", "--help"])
    monkeypatch.delitem(sys.modules, "hf_sls.__main__")
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_module("hf_sls", run_name="__main__")
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("plot", "landscape", "compare", "env"))


def test_a_summary_without_an_end_has_gaps_and_no_guesses() -> None:
    entries = [{"loss": 0.0, "step": 5, "learning_rate": 1.0, "step_size": 1.0, "epoch": 1.0}]
    summary = Run("cut off", entries).summary("eval_accuracy")
    gaps = {name for name, value in summary.items() if math.isnan(value)}
    assert gaps == {
        "mean log loss",
        "loss, geometric mean",
        "forward passes per step",
        "train_runtime in s",
        "best eval_accuracy",
        "last eval_accuracy",
    }


@pytest.mark.long
@pytest.mark.timeout(900)
def test_import_costs_little_more_than_the_trainer_of_transformers() -> None:
    """Under 2 s of processor time, by the least of three imports each, in turns."""
    least = {"import hf_sls": math.inf, "from transformers import Trainer": math.inf}
    for _ in range(3):
        for line in least:
            code = f"import time; start = time.process_time(); {line}; print(time.process_time() - start)"
            printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            least[line] = min(least[line], float(printed.split()[-1]))
    print(least)
    assert least["import hf_sls"] < least["from transformers import Trainer"] + 2
