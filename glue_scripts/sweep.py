"""Run a sweep of `run_glue.py`: tasks x sizes x optimizers x seeds, as listed in a JSON file.

    python glue_scripts/sweep.py glue_scripts/sweeps/smoke.json
    python glue_scripts/sweep.py glue_scripts/sweeps/bert-base.json --gpus_per_run 0.5 --address auto

Ray schedules the runs, on this machine or on the cluster at `--address`. A run that fails is resumed from its last
checkpoint, and a finished run is never repeated: start the same command again after a failure, or a second time beside
the first to share the work. Each finished run adds a line to `results.jsonl` in `output_dir`, from which `report.py`
writes tables and figures. To compare times on a GPU, give each run a whole one: `--gpus_per_run 1`.

Without `--address` Ray listens on the loopback interface only, and its dashboard is off.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import resource
import runpy
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from filelock import FileLock, Timeout
from results import RESULTS, read_results
from rules import rules_of
from run_peer import PEERS
from tqdm import tqdm
from transformers import HfArgumentParser

from hf_sls import last_complete_checkpoint, mean_log_loss

SCRIPTS = Path(__file__).parent
LOG, TRAINED = "run.log", "trained.json"
PACKAGES = ("torch", "transformers", "hf-sls")
NOT_RESUMED = ("salsa", "authors_adam_sls")
"""Peers whose state is not in the checkpoints, so that their runs start over."""


@dataclass
class SweepArguments:
    """Which sweep to run, where to write, and the resources of each run."""

    sweep: str = field(metadata={"help": "JSON file of the sweep: settings, tasks, sizes, optimizers, seeds."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write; by default out-<name of sweep>."})
    data_root: str | None = field(
        default=None, metadata={"help": "Directory with one data_dir per task; else the Hub."}
    )
    only: str | None = field(
        default=None, metadata={"help": "Run only those whose name matches this regular expression."}
    )
    address: str | None = field(
        default=None, metadata={"help": "Address of a Ray cluster; by default Ray starts on loopback."}
    )
    cpus_per_run: int = field(default=1, metadata={"help": "CPU cores for each run."})
    gpus_per_run: float = field(
        default=0.0, metadata={"help": "Fraction of a GPU for each run; with 0.5, two runs share one."}
    )
    device_name: str | None = field(
        default=None, metadata={"help": "Name of the device in the results; only times of the same name are compared."}
    )
    retries: int = field(default=2, metadata={"help": "How often a run that failed is tried again."})
    keep_models: bool = field(default=False, metadata={"help": "Whether to keep the trained models."})

    def __post_init__(self) -> None:
        if self.cpus_per_run < 1 or not 0 <= self.gpus_per_run <= 1 or self.retries < 0:
            raise ValueError(
                f"cpus_per_run={self.cpus_per_run}, gpus_per_run={self.gpus_per_run}, retries={self.retries}: at least "
                "1, a number in [0, 1] and at least 0 are needed."
            )
        if self.output_dir is None:
            self.output_dir = f"out-{Path(self.sweep).stem}"
        self.sweep, self.output_dir = str(Path(self.sweep).resolve()), str(Path(self.output_dir).resolve())
        if self.data_root is not None:
            self.data_root = str(Path(self.data_root).resolve())


@dataclass(frozen=True)
class SweepRun:
    """One run of the sweep: the arguments of `run_glue.py`, without paths."""

    task: str
    size: str
    optimizer: str
    seed: int
    settings: dict[str, Any]
    peer: str | None
    rules: str | None = None
    """The rules of a line search, as text: with other defaults of the package it is another run."""

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "-".join((self.task, self.size, self.optimizer, str(self.seed)))

    @property
    def name(self) -> str:
        """The name of its directory, which differs for other settings."""
        identity = {key: value for key, value in self.identity.items() if (key, value) != ("rules", None)}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f"{re.sub(r'[^-.0-9A-Za-z]+', '_', self.label)}-{digest[:6]}"

    @property
    def identity(self) -> dict[str, Any]:
        """The fields by which two runs are the same."""
        return asdict(self)


def read_sweep(path: str | Path) -> list[SweepRun]:
    """Return the runs of a sweep file.

    The file is a JSON object with five keys:

    - `settings`: arguments of `run_glue.py` for all runs; a `data_dir` is relative to the file.
    - `tasks`: names of GLUE tasks.
    - `sizes`: from a name to arguments.
    - `optimizers`: from a name to arguments, or the name of another sweep file in the same directory, whose optimizers
      are used. The argument `peer` names an optimizer of `run_peer.py`.
    - `seeds`: integers.

    Raises:
        ValueError: a key is missing, unknown or empty; a peer or the settings of a line search are not valid; the
            other file has no optimizers.
    """
    sweep = json.loads(Path(path).read_text(encoding="utf-8"))
    keys = {"settings", "tasks", "sizes", "optimizers", "seeds"}
    if set(sweep) != keys or not all(sweep[key] for key in keys - {"settings"}):
        raise ValueError(
            f"{path} has the keys {sorted(sweep)}; {sorted(keys)} are needed, and only settings may be empty."
        )
    optimizers = _optimizers(sweep["optimizers"], Path(path))
    peers = {arguments.get("peer") for arguments in optimizers.values()} - {None}
    if not peers <= PEERS.keys():
        raise ValueError(f"{path} has the peers {sorted(peers)}; there are {', '.join(PEERS)}.")
    runs = []
    for seed, (optimizer, of_optimizer), (size, of_size), task in itertools.product(
        sweep["seeds"], optimizers.items(), sweep["sizes"].items(), sweep["tasks"]
    ):
        settings = {**sweep["settings"], **of_size, **of_optimizer, "task_name": task, "seed": seed}
        peer = settings.pop("peer", None)
        rules = None if peer else rules_of(settings.get("optim", "adam_sls"), settings.get("optim_args"))
        runs.append(SweepRun(task, size, optimizer, seed, settings, peer, rules))
    return runs


def _optimizers(given: dict[str, Any] | str, path: Path) -> dict[str, Any]:
    if not isinstance(given, str):
        return given
    other = path.parent / given
    optimizers = json.loads(other.read_text(encoding="utf-8")).get("optimizers") if other.is_file() else None
    if not isinstance(optimizers, dict) or not optimizers:
        raise ValueError(f"{path} has the optimizers of {given!r}; no such file beside it lists any.")
    return optimizers


def main() -> None:
    """Run the script."""
    (args,) = HfArgumentParser(SweepArguments).parse_args_into_dataclasses(_with_flag(sys.argv[1:]))
    runs = read_sweep(args.sweep)
    wanted = [run for run in runs if re.search(args.only or "", run.label)]
    if not wanted:
        raise ValueError(f"only={args.only!r} matches no run of {args.sweep}; their names are like {runs[0].label!r}.")
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    results = read_results(output_dir)
    waiting = [run for run in wanted if find_result(run, results) is None]
    print(f"{len(wanted)} runs, {len(wanted) - len(waiting)} of them finished before.")

    ray = start_ray(args.address)
    _check_resources(args, ray.cluster_resources())
    remote = ray.remote(
        num_cpus=args.cpus_per_run,
        num_gpus=args.gpus_per_run,
        max_calls=1,
        max_retries=args.retries,
        retry_exceptions=True,
    )(execute)
    under_way = {remote.remote(run, args, output_dir): run for run in waiting}
    failed, elsewhere = [], []
    with tqdm(total=len(wanted), initial=len(wanted) - len(waiting), unit="run", smoothing=0) as progress:
        while under_way:
            finished, _ = ray.wait(list(under_way), timeout=2)
            progress.set_postfix_str(
                ", ".join(filter(None, (epochs_of(run, output_dir) for run in under_way.values())))
            )
            for reference in finished:
                run = under_way.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayError as error:
                    failed.append(run.label)
                    progress.write(f"{run.label} failed: {str(error).strip().splitlines()[-1]}")
                    continue
                if result is None:
                    elsewhere.append(run.label)
                else:
                    progress.update()
                    progress.write(
                        f"{run.label}: loss {result['final_loss']:.4f}, {result['metric']} {result['score']:.4f}"
                    )
    to_parquet(output_dir)
    if elsewhere:
        print(f"{len(elsewhere)} runs are in progress in another sweep with the same output_dir.")
    if failed:
        raise SystemExit(f"{len(failed)} runs failed, see {LOG} in their directories: {', '.join(failed)}")


def start_ray(address: str | None) -> Any:
    """Start Ray on this machine, or connect to the cluster at `address`, and return the module.

    A Ray started here listens on the loopback interface only, where it otherwise accepts connections from anywhere. It
    reads the variable for that when it is imported.
    """
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    return ray


def _check_resources(args: SweepArguments, available: dict[str, float]) -> None:
    """Stop if no run could ever start, and say so if a GPU would be idle."""
    cores, gpus = available.get("CPU", 0), available.get("GPU", 0)
    if args.address is None and (args.cpus_per_run > cores or args.gpus_per_run > gpus):
        raise SystemExit(
            f"cpus_per_run={args.cpus_per_run} and gpus_per_run={args.gpus_per_run} are not available: there are "
            f"{cores:g} cores and {gpus:g} GPUs."
        )
    if gpus and not args.gpus_per_run:
        print("The runs do not use the GPU. With --gpus_per_run 1 each of them gets one.")


def execute(run: SweepRun, args: SweepArguments, output_dir: Path) -> dict[str, Any] | None:
    """Run `run_glue.py` in this process, from its last checkpoint if there is one.

    Returns:
        The result; `None` if another process is executing the same run.
    """
    directory = output_dir / run.name
    directory.mkdir(exist_ok=True)
    try:
        with FileLock(directory / "lock", timeout=0):
            found = find_result(run, read_results(output_dir))
            if found is not None:
                return found
            if not (directory / TRAINED).exists():
                _write(directory / TRAINED, _train(run, args, directory))
            result = result_of(run, directory)
            if not args.keep_models:
                _remove_models(directory)
            with FileLock(output_dir / "lock"), (output_dir / RESULTS).open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(result)}\n")
                file.flush()
                os.fsync(file.fileno())
            return result
    except Timeout:
        return None


def _train(run: SweepRun, args: SweepArguments, directory: Path) -> dict[str, Any]:
    """Run the script, and return what its own files do not record: times, device, versions."""
    settings = {"save_strategy": "epoch", "save_total_limit": 1, "report_to": "none", "use_cpu": args.gpus_per_run == 0}
    settings |= {**run.settings, "output_dir": str(directory), "disable_tqdm": True}
    if args.data_root is not None:
        settings["data_dir"] = str(Path(args.data_root) / run.task)
    elif "data_dir" in settings:
        settings["data_dir"] = str(Path(args.sweep).parent / str(settings["data_dir"]))
    checkpoint = last_complete_checkpoint(directory) if run.peer not in NOT_RESUMED else None
    if isinstance(checkpoint, str):
        settings["resume_from_checkpoint"] = checkpoint
    _write(directory / "arguments.json", settings)
    script = [str(SCRIPTS / "run_peer.py"), run.peer] if run.peer else [str(SCRIPTS / "run_glue.py")]
    if settings["use_cpu"]:
        torch.set_num_threads(args.cpus_per_run)
        device = f"CPU, {args.cpus_per_run} core{'s' if args.cpus_per_run > 1 else ''}"
    else:
        device = torch.cuda.get_device_name()
    started, cpu_started = time.time(), cpu_seconds()
    with (directory / LOG).open("a", encoding="utf-8") as log:
        try:
            with _as_script([*script, directory / "arguments.json"], log):
                runpy.run_path(script[0], run_name="__main__")
        except (Exception, SystemExit) as error:
            traceback.print_exc(file=log)
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
    return {
        "wall_seconds": time.time() - started,
        "cpu_seconds": cpu_seconds() - cpu_started,
        "resumed": isinstance(checkpoint, str),
        "device": args.device_name or device,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON to a file atomically."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def _as_script(argv: list[Any], log: Any) -> Iterator[None]:
    """Set the command line and the import path for a script, and redirect its output to `log`."""
    argv_before, path_before = sys.argv, sys.path
    sys.argv, sys.path = [str(argument) for argument in argv], [str(SCRIPTS), *sys.path]
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        sys.argv, sys.path = argv_before, path_before


def cpu_seconds() -> float:
    """Return the processor time of this process, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def result_of(run: SweepRun, directory: Path) -> dict[str, Any]:
    """Return the result of a finished run: settings, versions, device, curves, passes and times."""
    metrics = json.loads((directory / "all_results.json").read_text(encoding="utf-8"))
    state = json.loads((directory / "trainer_state.json").read_text(encoding="utf-8"))
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    evaluations = {entry["epoch"]: entry for entry in state["log_history"] if "eval_loss" in entry}
    headline = _headline(run.task)
    backward = state["global_step"] * run.settings.get("gradient_accumulation_steps", 1)
    return {
        **run.identity,
        "final_loss": metrics["final_train_loss"],
        "mean_log_loss": mean_log_loss([entry["loss"] for entry in steps]),
        "metric": headline,
        "scores": {name: value for name, value in metrics.items() if name.startswith("eval_")},
        "score": metrics[f"eval_{headline}"],
        "score_per_epoch": [entry[f"eval_{headline}"] for entry in evaluations.values()],
        "losses": [entry["loss"] for entry in steps],
        "step_sizes": [entry["learning_rate"] for entry in steps],
        "step_seconds": [entry.get("step_seconds") for entry in steps],
        "forward_passes": metrics.get("train_forward_passes_per_step", 1.0) * backward,
        "backward_passes": backward,
        "training_seconds": metrics["train_step_seconds"],
        **json.loads((directory / TRAINED).read_text(encoding="utf-8")),
    }


def _headline(task: str) -> str:
    sys.path.insert(0, str(SCRIPTS))
    from tasks import get_task

    return get_task(task).headline


def _remove_models(directory: Path) -> None:
    for path in [*directory.glob("checkpoint-*"), *directory.glob("*.safetensors"), *directory.glob("tokenizer*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def find_result(run: SweepRun, results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the result of `run`, or `None` if it has not finished."""
    for result in results:
        if all(result.get(key) == value for key, value in run.identity.items()):
            return result
    return None


def epochs_of(run: SweepRun, output_dir: Path) -> str:
    """Return the name of a run with the last epoch in its log; an empty string before it has begun."""
    path = output_dir / run.name / LOG
    if not path.exists():
        return ""
    epochs = re.findall(r"'epoch': '?([\d.]+)", path.read_text(encoding="utf-8", errors="replace"))
    return f"{run.label} (epoch {float(epochs[-1]):.1f})" if epochs else run.label


def to_parquet(output_dir: Path) -> None:
    """Write the results to `results.parquet`, with nested values as JSON."""
    nested = ("settings", "scores", "versions")
    with FileLock(output_dir / "lock"):
        results = read_results(output_dir)
        columns = dict.fromkeys(key for result in results for key in result)
        rows = [
            {key: json.dumps(result.get(key)) if key in nested else result.get(key) for key in columns}
            for result in results
        ]
        if rows:
            temporary = output_dir / "results.part"
            datasets.Dataset.from_list(rows).to_parquet(temporary)
            temporary.replace(output_dir / "results.parquet")


def _with_flag(argv: list[str]) -> list[str]:
    """Return the arguments with `--sweep` in front of a first argument that has no flag."""
    return ["--sweep", *argv] if argv and not argv[0].startswith("-") else argv


if __name__ == "__main__":
    main()
