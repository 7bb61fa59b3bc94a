"""The plots of runs show the numbers of their histories, and one style serves all scripts."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from hf_sls import plot_run, plot_runs
from hf_sls.plotting import as_label, line_style

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


def test_an_evaluation_loss_is_called_one(drawn: list[Figure]) -> None:
    history = [{key.replace("eval_accuracy", "eval_loss"): entry[key] for key in entry} for entry in HISTORY]
    plot_run(history, "run.png", "eval_loss")
    assert drawn[0].axes[2].get_ylabel() == "evaluation loss"
    assert drawn[0].get_suptitle() == "4 steps, evaluation loss 0.800"


def test_one_evaluation_is_in_the_title_and_has_no_panel(drawn: list[Figure]) -> None:
    plot_run([entry for entry in HISTORY if entry["epoch"] < 2], "run.png")
    assert len(drawn[0].axes) == 2
    assert drawn[0].get_suptitle() == "3 steps, accuracy 0.600"


def test_the_title_has_the_name_the_cost_and_the_last_score(drawn: list[Figure]) -> None:
    history = [*HISTORY, {"step": 4, "epoch": 2.0, "train_loss": 0.4, "train_forward_passes_per_step": 1.25}]
    history = [{**entry, "step_size": 1.0} if "loss" in entry else entry for entry in history]
    plot_runs({"$out$": history}, "run.png")
    assert drawn[0].get_suptitle() == as_label("$out$: 4 steps, 1.25 forward passes per step, accuracy 0.800")


def test_smoothing_shows_the_first_step_and_leaves_step_sizes_alone(drawn: list[Figure]) -> None:
    """Each smoothed loss is the geometric mean of its window, 2 to each side of 80 steps, fewer at both ends."""
    losses = [2.0**-step for step in range(80)]
    history = [{"step": i + 1, "epoch": 1, "loss": loss, "learning_rate": loss} for i, loss in enumerate(losses)]
    plot_runs({"a": history, "b": history}, "runs.png")
    loss, step_size = drawn[0].axes
    smoothed = loss.lines[1].get_ydata()
    assert smoothed[:78] == pytest.approx(losses[:78])
    assert smoothed[-1] == pytest.approx(statistics.geometric_mean(losses[-3:]))
    assert list(step_size.lines[0].get_ydata()) == losses


@pytest.mark.parametrize(
    ("scores", "limits"),
    [
        ((0.80, 0.81), (0.705, 0.905)),
        ((0.99, 1.0), (0.82, 1.02)),
        ((0.0, 0.0), (-0.02, 0.18)),
        ((0.2, 0.9), (0.165, 0.935)),
        ((31.0, 31.1), (30.995, 31.105)),
    ],
)
def test_the_axis_of_a_score_does_not_exaggerate(
    scores: tuple[float, float], limits: tuple[float, float], drawn: list[Figure]
) -> None:
    """It has a range of 0.2 at least, within 0 and 1; a score of another scale has matplotlib's own margin of 5 %."""
    evaluations = [{"step": i, "epoch": i, "eval_accuracy": score} for i, score in enumerate(scores)]
    plot_run([*HISTORY[:2], *evaluations], "run.png")
    assert drawn[0].axes[2].get_ylim() == pytest.approx(limits)


def test_the_end_of_a_cosine_schedule_does_not_flatten_the_step_sizes(drawn: list[Figure]) -> None:
    plot_run([*HISTORY, {"step": 5, "epoch": 2.5, "loss": 0.2, "learning_rate": 1e-12}], "run.png")
    low, high = drawn[0].axes[1].get_ylim()
    assert high / low == pytest.approx(1e4)


def test_the_labels_of_step_sizes_are_their_values(drawn: list[Figure]) -> None:
    """Also where they lie so close together that each has the same first digit."""
    step_sizes = (1.15e-4, 1.49e-4)
    plot_run(
        [{"step": i, "epoch": i, "loss": 1.0, "learning_rate": each} for i, each in enumerate(step_sizes)], "a.png"
    )
    drawn[0].draw_without_rendering()
    axis = drawn[0].axes[1].yaxis
    shown = [(tick.get_loc(), tick.label1.get_text()) for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]]
    labelled = [(place, float(text)) for place, text in shown if text]
    assert len(labelled) > 2
    for place, value in labelled:
        assert value == pytest.approx(place, rel=0.005)


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
