"""What the training scripts share: default arguments, reading them, resuming, saving, the picture and the upload."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from step_timer import StepTimer
from transformers import HfArgumentParser, IntervalStrategy, TrainingArguments, set_seed

from hf_sls import LineSearchTrainerMixin, final_loss, plot_run
from hf_sls.plotting import metric_label

logger = logging.getLogger(__name__)


@dataclass
class ScriptDefaults:
    """Defaults for scripts that train and evaluate; put it first among the bases of the training arguments."""

    output_dir: str = field(default="out", metadata={"help": "Directory for the model and the results."})
    do_train: bool = field(default=True, metadata={"help": "Whether to train."})
    do_eval: bool = field(default=True, metadata={"help": "Whether to evaluate on the validation split."})
    eval_strategy: IntervalStrategy | str = field(
        default="epoch", metadata={"help": "When to evaluate during training."}
    )
    logging_steps: float = field(default=1, metadata={"help": "Steps between two logs."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Whether to leave NaN and infinite losses out of the log."}
    )

    def __post_init__(self) -> None:
        if not self.do_eval:
            self.eval_strategy = "no"
        super().__post_init__()  # type: ignore[misc]


def read_arguments(parser: HfArgumentParser) -> tuple[Any, ...]:
    """Read the arguments from the command line, or from the JSON file that it names."""
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        return parser.parse_json_file(json_file=sys.argv[1])
    return parser.parse_args_into_dataclasses()


def start(args: TrainingArguments, script_logger: logging.Logger) -> None:
    """Set up logging and the random seed."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    script_logger.setLevel(args.get_process_log_level())
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)


def check_counts(arguments: Any, *names: str) -> None:
    """Check that arguments are at least 1 or `None`.

    Raises:
        ValueError: one is less than 1.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not allowed: an integer of at least 1 is needed.")


def train_and_save(trainer: LineSearchTrainerMixin, timer: StepTimer) -> None:
    """Train, from a checkpoint with `--resume_from_checkpoint`, and save the model and the metrics.

    Args:
        trainer: the trainer; `timer` is one of its callbacks.
        timer: measures the time in the training steps.
    """
    result = trainer.train(resume_from_checkpoint=_checkpoint_to_resume(trainer.args))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    metrics = {**result.metrics, "train_samples": len(trainer.train_dataset), "final_train_loss": final_loss(losses)}
    metrics["train_step_seconds"] = timer.seconds
    trainer.save_model()
    shown = {name: f"{value:.3g}" if name == "train_step_size" else value for name, value in metrics.items()}
    trainer.log_metrics("train", shown)  # which rounds to four decimal places
    trainer.save_metrics("train", metrics)
    trainer.save_state()


def draw_picture(trainer: LineSearchTrainerMixin, metric: str) -> str | None:
    """Draw loss, step size and a metric of the evaluation if the run trained; without matplotlib, warn instead.

    Returns:
        The name of the file in `output_dir`; `None` if there is none.
    """
    picture = Path(trainer.args.output_dir) / "run.png"
    if trainer.args.do_train and trainer.is_world_process_zero():
        try:
            plot_run(trainer.state.log_history, picture, metric=metric)
            print(f"Loss, step size and {metric_label(metric)}: {picture}")
        except ImportError as error:
            logger.warning(error)
    return picture.name if picture.is_file() else None


def write_card(trainer: LineSearchTrainerMixin, card: dict[str, Any]) -> None:
    """Write the model card, and with `--push_to_hub` upload it with the model.

    Args:
        trainer: the trainer, after training.
        card: the arguments of `trainer.create_model_card`.
    """
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)


def _checkpoint_to_resume(args: TrainingArguments) -> str | bool | None:
    """Return the value of `--resume_from_checkpoint` for `Trainer.train`: a path, or `True` for the last checkpoint."""
    if args.resume_from_checkpoint is None:
        return None
    lowered = str(args.resume_from_checkpoint).lower()
    return lowered == "true" if lowered in ("true", "false") else str(args.resume_from_checkpoint)
