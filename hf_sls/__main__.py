"""The command line: plot and compare runs, and print what a bug report needs.

    hf-sls plot out                       loss, step size and metric of a run
    hf-sls landscape out --step 10        the loss along the search direction of one step
    hf-sls compare out_sls out_adamw      two runs in numbers
    hf-sls env                            versions and devices

`python -m hf_sls` is the same command.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from math import isnan, nan

import torch
from tabulate import tabulate

from .landscape import load_landscapes
from .plotting import plot_landscape, plot_runs
from .runs import MEAN_LOG_LOSS, Run, choose_metric, load_runs

_PACKAGES = ("hf-sls", "transformers", "accelerate", "datasets", "evaluate", "peft", "trl", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status.

    Args:
        arguments: the command line; by default that of the process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        options.run(options)
    except (OSError, ValueError, ImportError) as error:
        print(f"hf-sls {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-sls", description="Plot and compare runs of the Hugging Face Trainer.")
    parser.add_argument("--version", action="version", version=f"hf-sls {_version('hf-sls')}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    plot = commands.add_parser("plot", help="plot loss, step size and metric of runs with any optimizer")
    plot.add_argument("runs", nargs="+", metavar="RUN", help="the output_dir of a run")
    plot.add_argument("--output", default="run.png", help="file to write, .png, .svg or .pdf (default: run.png)")
    plot.set_defaults(run=_plot)

    landscape = commands.add_parser(
        "landscape",
        help="plot the loss along a search direction, recorded by LineSearchCallback(landscape_steps=...)",
    )
    landscape.add_argument("landscape_of", metavar="RUN", help="the output_dir of a run, or a landscape.json")
    landscape.add_argument("--step", type=int, help="the step to plot (default: the last one recorded)")
    landscape.add_argument("--output", default="landscape.png", help="file to write (default: landscape.png)")
    landscape.set_defaults(run=_landscape)

    compare = commands.add_parser("compare", help="print the numbers of two runs and their ratios")
    compare.add_argument("runs", nargs=2, metavar="RUN", help="the output_dir of a run")
    compare.add_argument("--output", help="file to write a plot of both runs to")
    compare.set_defaults(run=_compare)

    for command in (plot, compare):
        command.add_argument(
            "--metric",
            help="evaluation metric (default: the first of compute_metrics that the runs share, else eval_loss)",
        )

    env = commands.add_parser("env", help="print versions and devices, for a bug report")
    env.set_defaults(run=_env)
    return parser


def _plot(options: argparse.Namespace) -> None:
    runs = load_runs(options.runs)
    _draw(runs, options.output, _metric(runs, options.metric))


def _landscape(options: argparse.Namespace) -> None:
    landscapes = {landscape.step: landscape for landscape in load_landscapes(options.landscape_of)}
    step = options.step if options.step is not None else max(landscapes, default=None)
    if step not in landscapes:
        recorded = ", ".join(map(str, landscapes)) or "none"
        raise ValueError(f"--step {step} was not recorded in {options.landscape_of}; recorded: {recorded}.")
    plot_landscape(landscapes[step], options.output)
    print(options.output)


def _compare(options: argparse.Namespace) -> None:
    runs = load_runs(options.runs)
    metric = _metric(runs, options.metric)
    first, second = (run.summary(metric) for run in runs)
    ratios = {name: second[name] / (first[name] or nan) for name in first} | {MEAN_LOG_LOSS: nan}
    table = [(name, first[name], second[name], ratios[name]) for name in first]
    rows = [[None if isinstance(cell, float) and isnan(cell) else cell for cell in row] for row in table]
    headers = ["", runs[0].name, runs[1].name, f"{runs[1].name} / {runs[0].name}"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".4g", missingval="-"))
    if options.output:
        _draw(runs, options.output, metric)


def _env(options: argparse.Namespace) -> None:
    rows = [("Python", platform.python_version()), ("platform", platform.platform())]
    rows += [("torch", torch.__version__), *((name, _version(name)) for name in _PACKAGES)]
    rows += [("devices", ", ".join(_devices()))]
    print(tabulate(rows, tablefmt="github", headers=["", "version"], disable_numparse=True))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return [f"CPU ({torch.get_num_threads()} threads)"]
    module = torch.get_device_module(kind)
    name = getattr(module, "get_device_name", lambda index: kind.type)
    return [name(index) for index in range(torch.accelerator.device_count())]


def _metric(runs: Sequence[Run], asked: str | None) -> str | None:
    """Return the metric that was asked for, else the one that tells most of these runs."""
    known = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    if asked is not None and asked not in known:
        raise ValueError(f"--metric {asked} is not in the logs; they have {', '.join(known) or 'no evaluation'}.")
    return asked if asked is not None else choose_metric(runs)


def _draw(runs: Sequence[Run], output: str, metric: str | None) -> None:
    plot_runs({run.name: run.log_history for run in runs}, output, metric or "")
    print(output)


if __name__ == "__main__":
    sys.exit(main())
