"""The queue of GPU measurements: what it runs, what it leaves, and how it goes on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("peft")
pytest.importorskip("trl")

SCRIPT = Path(__file__).parent.parent / "docs" / "results" / "gpu.py"
sys.path.insert(0, str(SCRIPT.parents[1] / "experiments"))


@pytest.fixture(scope="module")
def gpu() -> Any:
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gpu", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def options(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    return gpu.parse_options()


def dry(gpu: ModuleType, options: Any, parts: Any) -> dict[str, str]:
    return gpu.run_queue(parts, gpu.replace(options, dry=True))


@pytest.mark.filterwarnings("ignore:The first search tried")  # bf16 hides so small a change of so small a model
def test_every_script_of_the_queue_runs(gpu: ModuleType, options: Any, tmp_path: Path) -> None:
    """With toy sizes on a CPU; a second time nothing is left to do."""
    parts = [part for part in gpu.PARTS if part.name in ("time-bf16", "lora", "mrpc")]
    assert dry(gpu, options, parts) == dict.fromkeys(("time-bf16", "lora", "mrpc"), "done")
    assert set(dry(gpu, options, parts).values()) == {"done before"}
    (result,) = (tmp_path / "out").glob("*.json")
    measured = json.loads(result.read_text())
    assert measured["figures"].keys() >= {"AdamW", "adam_sls"}
    assert measured["machine"].keys() >= {"torch", "transformers", "processor", "date"}
    for name in ("lora", "mrpc"):
        (row,) = gpu.read_results(tmp_path / "out" / f"{name}.jsonl")
        assert row["settings"]["optim"] == "adam_sls"
        assert row.keys() >= {"device", "versions", "date"}


@pytest.mark.long
def test_the_dry_run(tmp_path: Path) -> None:
    """All parts, the CUDA tests included, which are skipped; half a minute."""
    printed = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    for name in ("tests", "time-bf16", "lora", "full", "mrpc", "time-fp32", "glue"):
        assert f"\n{name}: done\n" in f"\n{printed}"


def write(path: Path, failing: bool = False) -> None:
    if failing:
        raise ArithmeticError("out of memory")
    path.write_text("{}")


def made_up(gpu: ModuleType, name: str, minutes: float, runs: dict[Path, bool]) -> Any:
    commands = [gpu.Command(path, partial(write, path, failing)) for path, failing in runs.items()]
    return gpu.Part(name, "nothing", minutes, lambda options: commands)


def test_a_part_that_does_not_fit_is_left(
    gpu: ModuleType, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(gpu, "start", lambda part, options, seconds: started.append((part.name, seconds)) or "done")
    before = tmp_path / "before.json"
    before.write_text("{}")
    parts = [made_up(gpu, name, minutes, {tmp_path / name: False}) for name, minutes in (("long", 9.5), ("short", 1.0))]
    parts.append(made_up(gpu, "before", 1.0, {before: False}))
    outcomes = gpu.run_queue(parts, gpu.replace(options, minutes=5.0))
    assert outcomes == {"long": "left: needs 9.5 minutes", "short": "done", "before": "done before"}
    ((name, seconds),) = started
    assert name == "short"
    assert 290 < seconds <= 300


def test_one_run_that_fails_does_not_keep_the_others(gpu: ModuleType, options: Any, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    part = made_up(gpu, "part", 1.0, {bad: True, good: False})
    with pytest.raises(RuntimeError, match="1 runs of part failed, the last with ArithmeticError: out of memory"):
        gpu.run_part(part, options)
    assert good.is_file()
    assert not gpu.is_complete(part, options)


def test_lines_of_one_file_are_counted(gpu: ModuleType, options: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    part = gpu.Part("part", "nothing", 1.0, lambda options: [gpu.Command(path, lambda: None)] * 2)
    path.write_text('{"seed": 0}\n{"se')
    assert not gpu.is_complete(part, options)
    path.write_text('{"seed": 0}\n{"seed": 1}\n')
    assert gpu.is_complete(part, options)


@pytest.mark.parametrize(
    ("program", "seconds", "outcome"),
    [("pass", 60, "done"), ("raise SystemExit(3)", 60, "failed, see"), ("import time; time.sleep(60)", 0.2, "stopped")],
)
def test_how_a_part_ends(
    program: str, seconds: float, outcome: str, gpu: ModuleType, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(options.work).mkdir()
    monkeypatch.setattr(gpu, "flags", lambda given: [])
    script = Path(options.work) / "part.py"
    script.write_text(program)
    monkeypatch.setattr(gpu, "__file__", str(script))
    assert gpu.start(gpu.PARTS[0], options, seconds).startswith(outcome)


def test_a_part_gets_the_options_of_the_queue(gpu: ModuleType, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = gpu.asdict(options) | {"part": "lora", "only": None, "list_parts": None, "dry": None}
    monkeypatch.setattr(sys, "argv", ["gpu.py", *gpu.flags(given)])
    assert gpu.parse_options() == gpu.replace(options, part="lora")


def test_unknown_parts_and_times_are_refused(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--minutes", "0"])
    with pytest.raises(ValueError, match="minutes=0.0 is not allowed"):
        gpu.parse_options()
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "sleep"])
    with pytest.raises(SystemExit):
        gpu.parse_options()
    assert "invalid choice: 'sleep'" in capsys.readouterr().err
