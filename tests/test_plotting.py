"""The plots of runs show the numbers of their histories, and one style serves all scripts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from hf_sls import plot_run, plot_runs
from hf_sls.plotting import line_style

HISTORY: list[dict[str, Any]] = [
    {"step": 1, "epoch": 0.5, "loss": 0.7, "learning_rate": 1e-3},
    {"step": 2, "epoch": 1.0, "loss": 0.5, "learning_rate": 2e-4},
    {"step": 2, "epoch": 1.0, "eval_accuracy": 0.6},
    {"step": 3, "epoch": 1.5, "loss": 0.1, "learning_rate": 3e-4},
    {"step": 4, "epoch": 2.0, "loss": 0.2, "learning_rate": 1e-4},
    {"step": 4, "epoch": 2.0, "eval_accuracy": 0.8},
    {"step": 4, "epoch": 2.0, "train_loss": 0.4},
    {"step": 4, "epoch": 2.0, "eval_accuracy": 0.8},
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self))
    return figures


def test_the_numbers_are_those_of_the_history(drawn: list[Figure]) -> None:
    plot_run(HISTORY, "run.png")
    loss, step_size, accuracy = drawn[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 0.7], [2, 0.5], [3, 0.1], [4, 0.2]]
    assert step_size.lines[0].get_xydata().tolist() == [[1, 1e-3], [2, 2e-4], [3, 3e-4], [4, 1e-4]]
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 0.6], [2, 0.8]]
    assert [axis.get_yscale() for axis in drawn[0].axes] == ["log", "log", "linear"]
    assert accuracy.get_ylabel() == "accuracy"


def test_without_an_evaluation_its_panel_is_left_out(drawn: list[Figure]) -> None:
    plot_run(HISTORY, "run.png", metric="eval_f1")
    assert len(drawn[0].axes) == 2


@pytest.mark.parametrize("extension", [".png", ".svg"])
def test_the_file_is_written(extension: str, tmp_path: Path) -> None:
    plot_run(HISTORY, tmp_path / f"run{extension}")
    assert (tmp_path / f"run{extension}").stat().st_size > 1000


def test_a_history_without_a_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="no entry with a 'loss'"):
        plot_run(HISTORY[2:3], "run.png")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"hf-sls\[plot\]"):
        plot_run(HISTORY, "run.png")


def test_six_lines_differ_without_colour() -> None:
    styles = [line_style(index, markersize=4) for index in range(6)]
    for key in ("color", "linestyle", "marker"):
        assert len({str(style[key]) for style in styles}) == 6
    assert line_style(6) == line_style(0)


@pytest.mark.parametrize("names", [["a", "b"], ["a rather long name of a directory"] * 4, ["x" * 200, "y"]])
def test_a_legend_is_not_cut_off(names: list[str], drawn: list[Figure]) -> None:
    """Unless one name alone is wider than the figure."""
    plot_runs({f"{name}{index}": HISTORY for index, name in enumerate(names)}, "runs.png")
    drawn[0].draw_without_rendering()
    box = drawn[0].legends[0].get_window_extent()
    assert len(drawn[0].legends[0].get_texts()) == len(names)
    if max(map(len, names)) < 100:
        assert box.x0 >= 0
        assert box.x1 <= drawn[0].bbox.x1


@pytest.mark.parametrize("name", ["_hidden", "$x$", r"$\frac$"])
def test_a_name_is_shown_as_it_is(name: str, drawn: list[Figure], tmp_path: Path) -> None:
    plot_runs({name: HISTORY, "other": HISTORY}, "runs.png")
    drawn[0].draw_without_rendering()
    first = drawn[0].legends[0].get_texts()[0].get_text()
    assert first.replace(r"\$", "$").strip() == name
