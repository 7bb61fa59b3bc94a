"""A sweep of tiny runs, and the report on it."""

from __future__ import annotations

import base64
import html
import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from .glue import SCRIPTS, glue_dir
from .launch import once

ray = pytest.importorskip("ray")

import sweep
from report import (
    ReportArguments,
    _in_the_picture,
    as_page,
    by_optimizer,
    curves,
    main,
    overall,
    report,
    table_of_runs,
    time_to_loss,
)
from results import read_results
from sweep import SweepArguments, SweepRun, execute, find_result, read_sweep, start_ray

SMOKE = SCRIPTS / "sweeps" / "smoke.json"


def sweep_file(path: Path, model_dir: Path, **changes: Any) -> Path:
    """A sweep of two optimizers and two seeds on twelve sentences."""
    glue_dir(path / "data" / "mrpc", "mrpc")
    settings = {"model_name_or_path": str(model_dir), "num_train_epochs": 2, "per_device_train_batch_size": 4}
    content = {
        "settings": {**settings, "use_cpu": True},
        "tasks": ["mrpc"],
        "sizes": {"tiny": {"max_train_samples": 12}},
        "optimizers": {"adam_sls": {"optim": "adam_sls"}, "AdamW": {"optim": "adamw_torch", "learning_rate": 1e-3}},
        "seeds": [0, 1],
        **changes,
    }
    (path / "tiny.json").write_text(json.dumps(content))
    return path / "tiny.json"


def command(path: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        str(SCRIPTS / "sweep.py"),
        str(path / "tiny.json"),
        "--data_root",
        str(path / "data"),
        "--output_dir",
        str(path / "out"),
        *more,
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}


PEERS = {"adam_sls": {"optim": "adam_sls"}, "salsa": {"peer": "salsa", "lr_scheduler_type": "constant"}}
BROKEN = {"broken": {"optim": "adam_sls", "lr_scheduler_type": "downhill"}}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> dict[str, Any]:
    """A sweep with one peer among the optimizers and one run that dies: its directory, and how it ended."""

    def make() -> dict[str, Any]:
        path = tmp_path_factory.mktemp("sweep")
        sweep_file(path, model_dir, optimizers={**BROKEN, **PEERS}, seeds=[0])
        asked = command(path, "--device_name", "a laptop", "--retries", "0")
        ended = subprocess.run(asked, env=environment(), capture_output=True, text=True, check=False)
        return {"path": str(path), "code": ended.returncode, "stdout": ended.stdout, "stderr": ended.stderr}

    return once("sweep", make, tmp_path_factory)


SECOND_START = """
import contextlib, io, ipaddress, json, psutil, sys
import sweep
ray = sweep.start_ray(None)
ray.get(ray.remote(lambda: None).remote())
own = psutil.Process()
sockets = [s for p in [own, *own.children(recursive=True)] for s in p.net_connections() if s.status == "LISTEN"]
addresses = {s.laddr.ip.removeprefix("::ffff:") for s in sockets}
found = {"sockets": len(sockets), "foreign": [a for a in addresses if not ipaddress.ip_address(a).is_loopback]}

sweep.start_ray = lambda address: ray
arguments = sys.argv
for name, more in {"again": [], "too much": ["--cpus_per_run", "1000"]}.items():
    sys.argv = [*arguments, *more]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            ended = sweep.main()
        except SystemExit as error:
            ended = str(error)
    found[name] = [printed.getvalue(), ended]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def started_again(swept: dict[str, Any], model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is found by an interpreter that starts the sweep twice more on one Ray, and the results of before.

    That interpreter has not imported Ray before it starts it. The run that dies is no longer asked for.
    """

    def make() -> dict[str, Any]:
        path = Path(swept["path"])
        results = read_results(path / "out")
        sweep_file(path, model_dir, optimizers=PEERS, seeds=[0])
        asked = [sys.executable, "-c", SECOND_START, *command(path)[2:]]
        variables = {**environment(), "PYTHONPATH": os.pathsep.join([str(SCRIPTS), *sys.path])}
        printed = subprocess.run(asked, check=True, env=variables, stdout=subprocess.PIPE, text=True).stdout
        return {"results": results, **json.loads(printed.splitlines()[-1])}

    return once("sweep-again", make, tmp_path_factory)


@pytest.mark.timeout(900)
def test_a_sweep_runs_and_is_reported(swept: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(swept["path"])
    results = read_results(path / "out")
    assert {result["optimizer"] for result in results} == {"adam_sls", "salsa"}
    for result in results:
        assert result["device"] == "a laptop"
        assert result["backward_passes"] == len(result["losses"]) == len(result["step_sizes"]) == 6
        assert result["forward_passes"] > 6
        assert len(result["score_per_epoch"]) == 2
        assert result["final_loss"] == pytest.approx(result["losses"][-1], abs=1e-4)
        assert result["training_seconds"] > 0
        assert result["training_seconds"] == pytest.approx(sum(result["step_seconds"]))
        assert result["settings"]["seed"] == 0
    assert not list((path / "out").rglob("*.safetensors"))
    assert len(pd.read_parquet(path / "out" / "results.parquet")) == 2

    monkeypatch.setattr(sys, "argv", ["report.py", str(path / "out"), "--output_dir", str(tmp_path)])
    main()
    assert "| adam_sls" in (tmp_path / "report.md").read_text()
    assert "data:image/png" in (tmp_path / "report.html").read_text()


@pytest.mark.timeout(900)
def test_a_run_that_dies_is_named_and_the_others_finish(swept: dict[str, Any]) -> None:
    assert swept["code"] == 1
    assert "1 runs failed" in swept["stderr"]
    assert "mrpc-tiny-broken-0" in swept["stderr"]
    out = Path(swept["path"]) / "out"
    (log,) = out.glob("mrpc-tiny-broken-0-*/run.log")
    assert "Traceback" in log.read_text()
    assert "downhill" in log.read_text().splitlines()[-1]
    assert "downhill" in swept["stdout"]
    assert {result["optimizer"] for result in read_results(out)} == {"adam_sls", "salsa"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_second_start_finds_everything_done(swept: dict[str, Any], started_again: dict[str, Any]) -> None:
    printed, ended = started_again["again"]
    assert ended is None
    assert "2 runs, 2 of them finished before" in printed
    assert read_results(Path(swept["path"]) / "out") == started_again["results"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_more_than_there_is_cannot_be_asked_for(started_again: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"gpus_per_run=2\.0"):
        SweepArguments(sweep="unused.json", gpus_per_run=2.0)
    _, ended = started_again["too much"]
    assert "cpus_per_run=1000 and gpus_per_run=0.0 are not available" in ended


@pytest.mark.timeout(900)
def test_without_an_address_ray_listens_on_loopback_only(started_again: dict[str, Any]) -> None:
    """Every process of Ray."""
    assert started_again["sockets"] >= 3
    assert started_again["foreign"] == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_killed_sweep_goes_on_and_two_share_the_work(tmp_path: Path, model_dir: Path) -> None:
    """No finished run is repeated, and the results are those of a sweep in one piece."""
    sweep_file(tmp_path, model_dir)
    first = subprocess.Popen(command(tmp_path), env=environment())
    deadline = time.time() + 300
    while not read_results(tmp_path / "out") and time.time() < deadline:
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(5)
    before = read_results(tmp_path / "out")
    assert 1 <= len(before) < 4

    both = [subprocess.Popen(command(tmp_path), env=environment()) for _ in range(2)]
    assert [process.wait(timeout=400) for process in both] == [0, 0]
    results = read_results(tmp_path / "out")
    assert results[: len(before)] == before
    assert len(results) == 4
    assert len({(result["optimizer"], result["seed"]) for result in results}) == 4

    sweep_file(tmp_path / "whole", model_dir)
    subprocess.run(command(tmp_path / "whole"), check=True, env=environment())
    whole = {(r["optimizer"], r["seed"]): r["losses"] for r in read_results(tmp_path / "whole" / "out")}
    assert {(r["optimizer"], r["seed"]): r["losses"] for r in results} == whole


def test_the_shipped_sweeps_are_read() -> None:
    for path in SMOKE.parent.glob("*.json"):
        runs = read_sweep(path)
        assert len({run.name for run in runs}) == len(runs) > 0


def test_a_sweep_may_have_the_optimizers_of_another(tmp_path: Path) -> None:
    content = json.loads(SMOKE.read_text())
    (tmp_path / "smoke.json").write_text(json.dumps(content))
    (tmp_path / "other.json").write_text(json.dumps({**content, "tasks": ["mrpc"], "optimizers": "smoke.json"}))
    runs = read_sweep(tmp_path / "other.json")
    assert {run.optimizer: run.settings["optim"] for run in runs} == {
        "adam_sls": "adam_sls",
        "AdamW 3e-4": "adamw_torch_fused",
    }
    assert {run.task for run in runs} == {"mrpc"}
    (tmp_path / "smoke.json").unlink()
    (tmp_path / "itself.json").write_text(json.dumps({**content, "optimizers": "itself.json"}))
    for path, named in (("other.json", "smoke"), ("itself.json", "itself")):
        with pytest.raises(ValueError, match=rf"'{named}\.json'; no such file beside it lists any"):
            read_sweep(tmp_path / path)


def test_a_sweep_file_with_a_wrong_key_is_refused(tmp_path: Path) -> None:
    content = json.loads(SMOKE.read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({**content, "optimisers": {}}))
    with pytest.raises(ValueError, match="optimisers"):
        read_sweep(tmp_path / "sweep.json")


@pytest.mark.parametrize(
    ("optimizer", "problem"),
    [
        ({"peer": "lion"}, "'lion'.*prodigy, salsa"),
        ({"optim": "adam_sls", "optim_args": "c=7"}, "c=7.0 is not allowed"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(optimizer: Any, problem: str, tmp_path: Path) -> None:
    content = json.loads(SMOKE.read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({**content, "optimizers": {"wrong": optimizer}}))
    with pytest.raises(ValueError, match=problem):
        read_sweep(tmp_path / "sweep.json")


def test_a_name_that_matches_no_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["sweep.py", str(SMOKE), "--only", "^adam_sls$", "--output_dir", str(tmp_path / "out")]
    )
    with pytest.raises(ValueError, match=r"only='\^adam_sls\$' matches no run of .*; their names are like '.*-.*-0'"):
        sweep.main()
    assert not (tmp_path / "out").exists()


def test_with_an_address_ray_joins_that_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **settings: asked.append(settings))
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    assert start_ray("10.0.0.1:6379") is ray
    assert (asked[0]["address"], asked[0]["include_dashboard"]) == ("10.0.0.1:6379", False)
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ


def test_with_other_rules_it_is_another_run() -> None:
    """As when the settings recommended for an `optim` have changed since."""
    run = read_sweep(SMOKE)[0]
    assert "LookBack" in run.rules
    assert find_result(run, [{**run.identity, "final_loss": 0.1}]) is not None
    assert (
        find_result(run, [{**run.identity, "rules": run.rules.replace("growth=", "growth=9"), "final_loss": 0.1}])
        is None
    )


def test_a_cut_off_line_is_no_result(tmp_path: Path) -> None:
    """Nor does it swallow the one that comes after it."""
    run = SweepRun("mrpc", "tiny", "adam_sls", 0, {"seed": 0}, None)
    assert find_result(run, read_results(tmp_path)) is None
    directory = tmp_path / run.name
    directory.mkdir()
    (tmp_path / "results.jsonl").write_text(json.dumps(run.identity)[:-5])
    finish(directory)
    assert execute(run, SweepArguments(sweep="unused.json"), tmp_path)["final_loss"] == 0.5
    assert find_result(run, read_results(tmp_path))["final_loss"] == 0.5


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    run, other = (SweepRun("mrpc", "tiny", "adam_sls", 0, {"seed": 0, "max_steps": steps}, None) for steps in (4, 8))
    assert run.name != other.name
    (tmp_path / run.name).mkdir()
    finish(tmp_path / run.name)
    execute(run, SweepArguments(sweep="unused.json"), tmp_path)
    assert find_result(other, read_results(tmp_path)) is None


def finish(directory: Path) -> None:
    """Leave what a run leaves that was killed between its end and its result."""
    history = [
        {"loss": 0.5, "learning_rate": 0.1},
        {"epoch": 1.0, "eval_loss": 1.0, "eval_accuracy": 0.7, "eval_runtime": 1},
    ]
    files = {
        "all_results.json": {"final_train_loss": 0.5, "eval_accuracy": 0.7, "train_step_seconds": 3.0},
        "trainer_state.json": {"global_step": 1, "log_history": history},
        "trained.json": {"resumed": False},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))


def made_up(optimizer: str, seed: int, task: str, loss: float, score: float, **more: Any) -> dict[str, Any]:
    return {
        "task": task,
        "size": "small",
        "optimizer": optimizer,
        "seed": seed,
        "settings": {},
        "final_loss": loss,
        "score": score,
        "metric": "accuracy",
        "score_per_epoch": [score - 0.1, score],
        "mean_log_loss": float(np.log(loss)),
        "losses": [1.0, loss],
        "step_sizes": [1e-3, 1e-4],
        "forward_passes": 2.4,
        "backward_passes": 2,
        "training_seconds": 10.0 if optimizer.startswith("AdamW") else 12.0,
        "resumed": False,
        "device": "CPU",
        "versions": {"torch": "2"},
        **more,
    }


def test_the_tables_are_the_means(tmp_path: Path) -> None:
    """Against the numbers worked out by hand."""
    results = [
        made_up("adam_sls", 0, "mrpc", 0.01, 0.7),
        made_up("adam_sls", 1, "mrpc", 0.04, 0.8),
        made_up("AdamW 1e-4", 0, "mrpc", 0.04, 0.6),
        made_up("AdamW 1e-4", 1, "mrpc", 0.04, 0.6),
        made_up("half done", 0, "mrpc", 0.001, 0.9),
    ]
    runs = table_of_runs(results)
    table = by_optimizer(runs).loc[("small", "mrpc")]
    assert table.loc["adam_sls", "final_loss"] == pytest.approx(0.02)
    assert table.loc["adam_sls", "score"] == pytest.approx(0.75)
    means = overall(by_optimizer(runs))
    assert list(means.index) == ["adam_sls", "AdamW 1e-4"]
    assert means.loc["adam_sls", "time"] == pytest.approx(1.2)
    assert means.loc["adam_sls", "passes"] == pytest.approx(1.2)
    assert means.loc["adam_sls", "rank by loss"] == 1
    text = report(runs, tmp_path, ReportArguments("unused"))
    assert "| mrpc, small | AdamW 1e-4   |        0.500 |              0.150 |        1.200 |" in text
    assert (tmp_path / "mrpc-small.png").stat().st_size > 10_000
    assert text.count("![") == as_page(text, tmp_path).count("data:image/png;base64") == 2


def elements(page: str) -> set[str]:
    """The names of the elements in an HTML page, as a browser reads it."""
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.add(tag)
    parser.feed(page)
    return found


HOSTILE = "<script>alert(1)</script> | [a](http://b) ![c](../secret.png) `d` <img src=e onerror=f> $\\g$"


@pytest.mark.parametrize("key", ["task", "size", "optimizer", "metric", "device"])
def test_the_report_shows_names_as_they_are(key: str, tmp_path: Path) -> None:
    """A name is no HTML, no link, no picture and no cell of a table."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    plain, hostile = (
        [{**made_up(name, 0, "mrpc", 0.1, 0.7), key: value} for name in ("AdamW", "adam_sls")]
        for value in ("name", HOSTILE)
    )
    if key == "optimizer":
        plain, hostile = ([{**runs[0], "optimizer": "AdamW"}, runs[1]] for runs in (plain, hostile))
    expected, page = (as_page(report(table_of_runs(runs), out, ReportArguments("")), out) for runs in (plain, hostile))
    assert elements(page) == elements(expected)
    assert html.escape(HOSTILE) in page
    assert page.count("<td") == expected.count("<td")
    assert page.count("data:image/png") == 2
    assert base64.b64encode(b"secret").decode() not in page


def test_the_report_embeds_pictures_of_its_own_folder_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path in (tmp_path / "outside.png", out / "inside.png"):
        path.write_bytes(path.stem.encode())
    (out / "link.png").symlink_to(tmp_path / "outside.png")
    sources = ("../outside.png", "%2e%2e/outside.png", str(tmp_path / "outside.png"), "link.png", "http://a/b.png")
    page = as_page("\n\n".join(["# Report", *(f"![a]({source})" for source in (*sources, "inside.png"))]), out)
    assert page.count("<img") == 1
    assert f"data:image/png;base64,{base64.b64encode(b'inside').decode()}" in page
    assert "outside" not in page


@pytest.mark.parametrize("missing", ["score_per_epoch", "versions", "optimizer"])
def test_a_result_without_a_key_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [made_up("adam_sls", seed, "mrpc", 0.1, 0.7) for seed in (0, 1)]
    del rows[1][missing]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=rf"results\.jsonl, line 2 \(task mrpc, .*seed 1\) lacks {missing}\."):
        main()
    (tmp_path / "results.jsonl").write_text("[1]")
    with pytest.raises(SystemExit, match=r"line 1 \(no name\) lacks task, size"):
        main()


def test_a_loss_that_is_never_reached_is_said_to_be(tmp_path: Path) -> None:
    results = [made_up(name, 0, "mrpc", 0.3, 0.7, losses=[1.0, 0.45, 0.3]) for name in ("AdamW", "adam_sls")]
    text = report(table_of_runs(results), tmp_path, ReportArguments("unused", optimizers=["lion"], smoothing=0.0))
    lines = [line.split("|")[1:-1] for line in text.splitlines() if "never" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["AdamW", "2.000", "never", "never", "0.667", "never", "never"],
        ["adam_sls", "2.000", "never", "never", "0.800", "never", "never"],
    ]


def test_runs_of_other_settings_are_not_mixed_in() -> None:
    results = [
        made_up("adam_sls", 0, "mrpc", 0.3, 0.7, settings={"num_train_epochs": 3, "seed": 0}),
        made_up("adam_sls", 1, "mrpc", 0.3, 0.7, rules="before"),
        made_up("adam_sls", 0, "mrpc", 0.04, 0.7, settings={"seed": 0}),
        made_up("adam_sls", 2, "mrpc", 0.01, 0.7, settings={"seed": 2}),
    ]
    table = by_optimizer(table_of_runs(results))
    assert table["seeds"].tolist() == [2]
    assert table["highest_loss"].tolist() == [0.04]


def test_times_are_compared_on_one_device_only() -> None:
    slow = {"device": "slow CPU", "training_seconds": 36.0}
    results = [
        made_up("adam_sls", 0, "mrpc", 0.3, 0.7, **slow),
        made_up("AdamW 1e-4", 0, "mrpc", 0.3, 0.7, **{**slow, "training_seconds": 24.0}),
        made_up("AdamW 1e-4", 1, "mrpc", 0.3, 0.7),
        made_up("sgd_sls", 0, "mrpc", 0.3, 0.7),
        made_up("plasls", 0, "mrpc", 0.3, 0.7, device="fast CPU"),
    ]
    times = by_optimizer(table_of_runs(results)).loc[("small", "mrpc"), "time"]
    assert times.to_dict() == pytest.approx(
        {"adam_sls": 1.5, "AdamW 1e-4": 1.0, "sgd_sls": 1.2, "plasls": float("nan")}, nan_ok=True
    )


def test_after_a_loss_that_is_not_finite_no_line_is_drawn() -> None:
    runs = [made_up("AdamW", seed, "mrpc", 0.5, 0.7, losses=[1.0, 0.5, 0.4, 0.3][: 4 - seed]) for seed in (0, 1)]
    runs[1]["losses"] += [float("nan")]
    for smoothing in (0.0, 0.9):
        drawn = curves(table_of_runs(runs), ["AdamW"], smoothing).axes[0].lines[0].get_ydata()
        assert np.isfinite(drawn).tolist() == [True, True, True, False]


def test_the_best_adamw_is_in_the_picture() -> None:
    names = ["a", "b", "adam_sls", "c", "d", "e", "AdamW 1e-4", "AdamW 1e-3", "Adam, cosine, 2e-5"]
    runs = table_of_runs([made_up(name, 0, "mrpc", 0.1 - 0.01 * i, 0.7) for i, name in enumerate(names)])
    rows = by_optimizer(runs).droplevel(["size", "task"])
    assert _in_the_picture(rows, names) == ["adam_sls", "AdamW 1e-3", "Adam, cosine, 2e-5", "a", "b"]


def test_the_time_to_a_loss_is_that_of_the_first_step_below_it() -> None:
    falling = {"losses": [1.0, 0.4, 0.3, 0.05]}
    runs = table_of_runs(
        [
            made_up("AdamW", 0, "mrpc", 0.05, 0.7, **falling),
            made_up("adam_sls", 0, "mrpc", 0.05, 0.7, losses=[1.0, 0.6, 0.55, 0.45]),
            made_up("sgd_sls", 0, "mrpc", 0.05, 0.7, losses=[1.0, 0.4, 0.3, 0.2], step_seconds=[4.0, 4.0, 2.0, 2.0]),
            made_up("AdamW", 1, "mrpc", 0.05, 0.7, **falling),
            made_up("adam_sls", 1, "mrpc", 0.05, 0.7, losses=[1.0, 0.6, 0.55, 0.45]),
            made_up("sgd_sls", 1, "mrpc", 0.05, 0.7, losses=[1.0, 0.4, 0.3, 0.2], step_seconds=[4.0, 4.0, 2.0, 2.0]),
            made_up("half done", 0, "mrpc", 0.05, 0.7, losses=[0.1, 0.1, 0.1, 0.1]),
        ]
    )
    reached = time_to_loss(runs, (0.5, 0.1), decay=0.0)
    assert reached.loc["AdamW", "steps to 0.5"] == 2
    assert reached.loc["AdamW", "time to 0.5"] == pytest.approx(0.5)
    assert reached.loc["AdamW", "steps to 0.1"] == 4
    assert reached.loc["adam_sls", "time to 0.5"] == pytest.approx(1.2)
    assert reached.loc["adam_sls", "time to 0.1"] == float("inf")
    assert reached.loc["sgd_sls", "time to 0.5"] == pytest.approx(8 / 10)
    assert "half done" not in reached.index
