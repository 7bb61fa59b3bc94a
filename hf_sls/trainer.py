"""`SLSTrainer`: the Hugging Face Trainer with a line-search optimizer.

The Trainer calls `optimizer.step()` without a closure. So each `training_step` is recorded in a window, which the
optimizer can evaluate again (`window.py`); what a line search cannot work with is refused first (`refusals.py`).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from huggingface_hub import EvalResult
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import OptimizerNames

from .callbacks import LineSearchCallback, line_search_of, public_tensorboard
from .checkpoints import last_complete_checkpoint, naming_unreadable_files, require_files
from .hub import PushMixin
from .model_card import complete_card, remove_base_model_path
from .optim import PLASLS, Joint, LineSearchOptimizer, layer_groups
from .private import public_copy, remove_paths_from_json
from .processes import ending_together
from .refusals import check_supported
from .training_args import (
    SLSTrainingArguments,
    as_string,
    check_arguments,
    is_line_search,
    optimizer_class_and_kwargs,
    warn_of_arguments_without_effect,
)
from .window import StepWindow, WindowCallback
from .zero import GradientCollector

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class _static_or_instance_method:
    """Bind a function to the instance, or to the class where it is called on that.

    `get_optimizer_cls_and_kwargs` is a static method of the Trainer, and an instance method of some subclasses.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        return partial(self._function, instance if instance is not None else owner)


class LineSearchTrainerMixin(PushMixin, _Base):
    """Adds line-search optimizers to any Trainer subclass; put it first among the bases.

    With a stock `optim` the subclass trains bit for bit as it does without the mixin. What it saves and pushes has no
    secrets and no paths of the machine then too.
    With a line search, `learning_rate` in the logs is the step size taken, and each training log also has:

    - `step_size`: the step size of the last step, 0 if it moved nothing; where layers are searched one by one, also
      `step_size/embeddings` and so on,
    - `ls_trials`, `ls_backtracks`: trials (forward passes of the search) and rejected trials per step,
    - `ls_skipped_steps`: the fraction of steps that moved nothing, or not the layer that was searched,
    - `loss_decrease`: `f(w) - f(w + eta p)` per search; missing where no step was searched,
    - `slope`, `criterion_ratio`: the slope `s`, and the decrease over the decrease that the criterion requires, per
      search that found a step; missing where none did,

    all of them means since the last log, but for `step_size`. The final metrics, which a run that is shorter than
    `logging_steps` logs too, have `train_forward_passes_per_step`, which counts the pass with gradients, and
    `train_step_size`, the step size found, before the schedule scales it.

        >>> class MyTrainer(LineSearchTrainerMixin, Trainer):
        ...     pass

    Raises:
        ValueError: a feature of the trainer does not work with a line search (docs/limits.md has the table), or
            `optim_args` do not suit the optimizer.

    Attributes:
        window: the micro-batches of the optimizer step under way; `None` between steps.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.window: StepWindow | None = None
        self._counts_at_last_log: dict[str, float] | None = None
        self._own_callbacks: list[TrainerCallback] = []
        super().__init__(*args, **kwargs)
        self.callback_handler.callbacks = [public_tensorboard(each) for each in self.callback_handler.callbacks]
        if self._wants_line_search():
            self._check_line_search()
            self._warn_of_learning_rate()
            self._warn_of_optim_args()

    @property
    def in_trial(self) -> bool:
        """Whether a trial of the line search is evaluating the loss now; for a `compute_loss` that counts or logs."""
        return self.window is not None and self.window.replaying

    def _line_search_callbacks(self) -> list[LineSearchCallback]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, LineSearchCallback)]

    # ---- Which optimizer ----

    @_static_or_instance_method
    def get_optimizer_cls_and_kwargs(this, args: TrainingArguments, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the class and arguments of a line-search `optim`; for any other what the Trainer returns.

        The parameters and their groups are those that the Trainer chooses for AdamW; a subclass may add parameters to
        those of the model, such as the weights of a loss. Learning rates of groups count relative to each other.
        """
        host = super().get_optimizer_cls_and_kwargs
        if not is_line_search(args.optim):
            return host(args, model)
        optimizer_class, kwargs = optimizer_class_and_kwargs(args)
        stock = copy.copy(args)
        stock.optim, stock.optim_args = OptimizerNames.ADAMW_TORCH, None
        _, stock_kwargs = host(stock, model)
        keys = [key for key in ("params", "model", "optimizer_dict") if key in stock_kwargs]
        groups = list(stock_kwargs[keys[0]]) if keys else None
        if groups is not None and any("lr" in each for each in groups):
            rates = [each.get("lr", args.learning_rate) for each in groups]
            groups = [{**each, "lr": rate / max(rates)} for each, rate in zip(groups, rates)]
        if optimizer_class is PLASLS and model is not None:
            decaying = Trainer.get_decay_parameter_names(None, model)
            layers = layer_groups(model, kwargs.get("blocks", 8), args.weight_decay, decaying)
            groups = [*layers, *_remaining(groups or [], layers)]
        if groups is not None:
            kwargs["params"] = groups
        return optimizer_class, kwargs

    def _wants_line_search(self) -> bool:
        if self.optimizer is not None:
            return self.line_search_optimizer is not None
        if getattr(self, "optimizer_cls_and_kwargs", None) is not None:
            cls = self.optimizer_cls_and_kwargs[0]
            return isinstance(cls, type) and issubclass(cls, LineSearchOptimizer)
        return is_line_search(self.args.optim)

    @property
    def line_search_optimizer(self) -> LineSearchOptimizer | None:
        """The line-search optimizer in use, without Accelerate's wrapper; `None` before training or with another."""
        return line_search_of(self.optimizer)

    def _check_line_search(self) -> None:
        """Raise `ValueError` for what a line search cannot work with, before anything is trained."""
        check_arguments(self.args)
        check_supported(self)

    def _warn_of_learning_rate(self) -> None:
        if is_line_search(self.args.optim) and self.args.learning_rate != type(self.args).learning_rate:
            logger.warning(
                f"learning_rate={self.args.learning_rate} is not used: a line search finds the step size itself. "
                "lr_scheduler_type says which fraction of it is taken."
            )

    def _warn_of_optim_args(self) -> None:
        passed = [name for name in ("optimizer", "optimizer_cls_and_kwargs") if getattr(self, name, None) is not None]
        if passed and is_line_search(self.args.optim) and self.args.optim_args:
            logger.warning(
                f"optim_args={self.args.optim_args!r} is not used: the trainer was given its {passed[0]}, which counts."
            )
        elif not isinstance(self.args, SLSTrainingArguments):
            warn_of_arguments_without_effect(self.args)

    def _warn_of_stock_optimizer(self) -> None:
        stock = getattr(self.optimizer, "optimizer", self.optimizer)  # Accelerate may have wrapped it
        if is_line_search(self.args.optim) and not self.is_deepspeed_enabled:
            logger.warning(
                f"optim={as_string(self.args.optim)!r} is not used: the trainer was given an optimizer, or its "
                f"create_optimizer() made one, and {type(stock).__name__} does not search."
            )

    def _hp_search_setup(self, trial: Any) -> None:
        """Set up a trial of the hyperparameter search as the Trainer does, and warn if it varies `learning_rate`."""
        before = self.args.learning_rate
        super()._hp_search_setup(trial)
        if self.args.learning_rate != before and self._wants_line_search():
            self._warn_of_learning_rate()

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Create the schedule as the Trainer does, and check the optimizer, which exists by now whoever made it."""
        if self.line_search_optimizer is not None:
            self._check_line_search()
            if self.is_in_train:
                self._add_own_callbacks()
        elif self.optimizer is not None:
            self._warn_of_stock_optimizer()
        return super().create_scheduler(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the optimizer as the Trainer does; under DeepSpeed, in a `GradientCollector`."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_deepspeed_enabled and isinstance(optimizer, LineSearchOptimizer):
            self.optimizer = optimizer = GradientCollector(optimizer)
        return optimizer

    # ---- Checkpoints ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; `resume_from_checkpoint=True` resumes from the last complete checkpoint."""
        if resume_from_checkpoint is True and self._wants_line_search():
            found = gather_object([last_complete_checkpoint(self.args.output_dir)])
            if len(set(found)) > 1:
                raise ValueError(
                    "resume_from_checkpoint=True: the processes find different last complete checkpoints, "
                    f"{', '.join(map(repr, found))}. Name one that all of them have."
                )
            resume_from_checkpoint = found[0]
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.line_search_optimizer is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None and not self.is_deepspeed_enabled:
                self._refuse_state_of_a_line_search(checkpoint)
            return
        require_files(checkpoint, OPTIMIZER_NAME, SCHEDULER_NAME)
        with naming_unreadable_files(checkpoint, OPTIMIZER_NAME, SCHEDULER_NAME):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _refuse_state_of_a_line_search(self, checkpoint: str) -> None:
        """Raise `ValueError` if a stock optimizer has loaded the groups of a line search, which lack its settings."""
        groups = getattr(self.optimizer, "param_groups", [])
        if any("line_search" in group for group in groups):
            stock = getattr(self.optimizer, "optimizer", self.optimizer)  # Accelerate has wrapped it
            raise ValueError(
                f"resume_from_checkpoint={checkpoint!r} has the state of a line search, and {type(stock).__name__} "
                "cannot go on from it. Resume with the optimizer of that run, or load its model with from_pretrained "
                "and start a new run."
            )

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.line_search_optimizer is None:
            super()._load_scaler(checkpoint)
            return
        if getattr(self.accelerator, "scaler", None) is not None and not Path(checkpoint, SCALER_NAME).is_file():
            logger.warning(
                f"resume_from_checkpoint={checkpoint!r} has no {SCALER_NAME}: the gradient scaler starts afresh."
            )
        with naming_unreadable_files(checkpoint, SCALER_NAME):
            super()._load_scaler(checkpoint)

    def _load_callback_state(self) -> None:
        """Find the best checkpoint again, where a checkpoint that was pushed, or has moved, lacks its path."""
        super()._load_callback_state()
        if self.state.best_model_checkpoint is None and self.state.best_global_step is not None:
            best = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
            if best.is_dir():
                self.state.best_model_checkpoint = str(best)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.line_search_optimizer is None:
            super()._load_rng_state(checkpoint)
            return
        name = f"rng_state_{self.args.process_index}.pth" if self.args.world_size > 1 else "rng_state.pth"
        if not Path(checkpoint, name).is_file():
            logger.warning(
                f"resume_from_checkpoint={checkpoint!r} has no {name}: dropout and the order of the data will "
                "differ from those of the unbroken run."
            )
        with naming_unreadable_files(checkpoint, name):
            super()._load_rng_state(checkpoint)

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Save as the Trainer does, without secrets and paths in `training_args.bin`, which is pushed to the Hub.

        In a run that pushes, an adapter and its card name the base model without the local path.
        """
        super()._save(output_dir, *args, **kwargs)
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        if (saved := folder / TRAINING_ARGS_NAME).exists():
            torch.save(public_copy(self.args), saved)
        if self.hub_model_id is not None and (adapter := folder / "adapter_config.json").is_file():
            remove_paths_from_json(adapter)
            remove_base_model_path(folder / "README.md", self.model)

    # ---- The step ----

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Train without a window left from before, by another `train()` or a try of `auto_find_batch_size`.

        With a line search, several processes end together where training fails on one of them.
        """
        self._close_window()
        self._counts_at_last_log = None
        if self.line_search_optimizer is not None:  # of an earlier `train()`
            self.line_search_optimizer.forget_losses()
        if self._wants_line_search():
            self._add_own_callbacks()
        together = ending_together(self.args.auto_find_batch_size) if self._wants_line_search() else nullcontext()
        try:
            with together:
                return super()._inner_training_loop(*args, **kwargs)
        finally:
            self._close_window()
            for callback in self._own_callbacks:
                self.remove_callback(callback)
            self._own_callbacks = []

    def _close_window(self) -> None:
        """Close the window of the step, so that its batches are freed at once."""
        if self.window is not None:
            self.window.close()
        self.window = None

    def _add_own_callbacks(self) -> None:
        if not self._own_callbacks:
            self._own_callbacks = [WindowCallback(self)]
            if not self._line_search_callbacks():
                self._own_callbacks.append(LineSearchCallback())
            for callback in self._own_callbacks:
                self.add_callback(callback)
        for shown in self._line_search_callbacks():
            shown.shown_beside = self.callback_handler.callbacks

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Run forward and backward as the Trainer does; with a line search, record them in the window of the step."""
        optimizer = self.line_search_optimizer
        step = super().training_step
        if optimizer is None:
            return step(model, inputs, *args, **kwargs)
        if self._counts_at_last_log is None:
            self._counts_at_last_log = optimizer.counts
        if self.window is None:
            self.window = StepWindow(self, model, trials=optimizer.search_due)
        return self.window.training_step(step, model, inputs, *args, **kwargs)

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepare = super()._prepare_inputs
        return self.window.prepare_inputs(prepare, inputs) if self.window is not None else prepare(inputs)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        clip_grad_norm_ = self.accelerator.clip_grad_norm_

        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            return clip_grad_norm_(self._with_weights_of_the_loss(parameters), *args, **kwargs)

        self.accelerator.clip_grad_norm_ = self._recording_the_norm(clip)

    def _with_weights_of_the_loss(self, parameters: Any) -> Any:
        """Return the parameters to clip; with a line search, those that only the optimizer has come after them.

        The Trainer clips the parameters of the model. A library may train weights of its loss beside them, and the
        search corrects its slope by one factor for all.
        """
        if self.window is None or self.line_search_optimizer is None:
            return parameters
        clipped = list(parameters)
        known = {id(parameter) for parameter in clipped}
        trained = [parameter for group in self.line_search_optimizer.param_groups for parameter in group["params"]]
        return clipped + [parameter for parameter in trained if id(parameter) not in known]

    def _recording_the_norm(self, clip_grad_norm_: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function that clips, to tell the window by how much."""

        def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            norm = clip_grad_norm_(parameters, max_norm, *args, **kwargs)
            if self.window is not None:
                self.window.clipped(norm, max_norm)
            return norm

        return clip

    def _mixed_mesh_grad_norm(self, model: nn.Module, max_norm: float) -> Any:
        return self._recording_the_norm(super()._mixed_mesh_grad_norm)(model, max_norm)

    # ---- Logs ----

    def _get_learning_rate(self) -> float:
        optimizer = self.line_search_optimizer
        if optimizer is None:
            return super()._get_learning_rate()
        return optimizer.param_groups[0]["step_size"]  # the Trainer asks at every step; `last_step_sizes` may wait

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, with the figures of the line search added; nothing is logged during a trial."""
        if self.in_trial:
            return
        optimizer = self.line_search_optimizer
        if optimizer is not None and self._counts_at_last_log is not None:
            counts = optimizer.counts
            if "loss" in logs:
                since = {name: counts[name] - self._counts_at_last_log[name] for name in counts}
                logs["step_size"] = optimizer.last_step_sizes[0]
                if "learning_rate" in logs:
                    logs["learning_rate"] = logs["step_size"]
                logs.update(_step_size_of_each_layer(optimizer))
                for name in ("trials", "backtracks", "skipped_steps"):
                    logs[f"ls_{name}"] = since[name] / max(since["steps"], 1)
                if since["searches"]:
                    logs["loss_decrease"] = since["loss_decrease"] / since["searches"]
                if since["accepted"]:
                    logs["slope"] = since["slope"] / since["accepted"]
                    logs["criterion_ratio"] = since["criterion_ratio"] / since["accepted"]
                self._counts_at_last_log = counts
            elif "train_loss" in logs:
                logs["train_forward_passes_per_step"] = optimizer.forward_passes_per_step
                logs["train_step_size"] = optimizer.found_step_sizes[0]
        super().log(logs, *args, **kwargs)

    # ---- The model card ----

    def create_model_card(
        self,
        *args: Any,
        snippet: str | None = None,
        picture: str | None = None,
        eval_results: Sequence[EvalResult] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the Trainer's model card; with a line search, add its rules, step sizes, cost and picture.

        A base model in a directory of this machine is named without its path, with a stock optimizer too.

        Args:
            *args: as for the Trainer.
            snippet: Markdown that shows how to repeat the run. Default with a line search: the training arguments.
            picture: an image file in `output_dir` to show. Default with a line search: `run.png`, drawn now if
                matplotlib is installed.
            eval_results: the results for `model-index`. Default: the last evaluation in the log.
            **kwargs: as for the Trainer.
        """
        super().create_model_card(*args, **kwargs)
        optimizer = self.line_search_optimizer
        if self.is_world_process_zero():
            card = Path(self.args.output_dir) / "README.md"
            if optimizer is not None or snippet or picture or eval_results:
                complete_card(card, self, optimizer, snippet, picture, eval_results)
            else:
                remove_base_model_path(card, self.model)


class SLSTrainer(LineSearchTrainerMixin, Trainer):
    """`transformers.Trainer` with `optim="adam_sls"` and the other line-search optimizers.

    Use it in place of `Trainer`, with the same arguments. With a stock `optim` it trains bit for bit as `Trainer` does.

    Raises:
        ValueError: a feature of the trainer does not work with a line search (docs/limits.md has the table), or
            `optim_args` do not suit the optimizer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chosen = self.optimizer is not None or getattr(self, "optimizer_cls_and_kwargs", None) is not None
        defaults = {field.name: field.default for field in fields(self.args)}
        if not chosen and not is_line_search(self.args.optim) and self.args.optim == defaults["optim"]:
            logger.warning(
                f"{type(self).__name__} trains with optim={as_string(self.args.optim)!r}, the default of "
                f"{type(self.args).__name__}, and without a line search. For a line search use SLSTrainingArguments, "
                'or set optim="adam_sls".'
            )


def _step_size_of_each_layer(optimizer: LineSearchOptimizer) -> dict[str, float]:
    """Return the log entries of layers that are searched one by one; none where they are searched together."""
    if isinstance(optimizer.partition, Joint):
        return {}
    return {
        f"step_size/{group.get('layer_name', group.get('layer', index))}": step_size
        for index, (group, step_size) in enumerate(zip(optimizer.param_groups, optimizer.last_step_sizes))
    }


def _remaining(groups: list[dict[str, Any]], layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups without the parameters of `layers`; together they are one more layer."""
    known = {id(parameter) for layer in layers for _, parameter in layer["params"]}
    number = 1 + max((layer["layer"] for layer in layers), default=-1)
    remaining = []
    for group in groups:
        others = [parameter for parameter in group["params"] if id(parameter) not in known]
        if others:
            named = [(f"others.{index}", parameter) for index, parameter in enumerate(others)]
            remaining.append({**group, "params": named, "layer": number, "layer_name": "others"})
    return remaining
