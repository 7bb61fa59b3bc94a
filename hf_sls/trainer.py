"""`SLSTrainer`: the Hugging Face Trainer, handing the loss closure to a line-search optimizer.

The Trainer calls `optimizer.step()` without a closure. So `training_step` runs forward and backward as ever and records
what it saw in a window, a `LossClosure` that replays the Trainer's own `training_step` with backward off, so that every
scaling rule of the installed version holds in a trial::

    training_step          self.window = LossClosure(...), for the first micro-batch; self.window.record(...)
    clip_grad_norm_        self.window.clipped(norm, max_norm)
    on_pre_optimizer_step  optimizer.closure = self.window
    on_optimizer_step      optimizer.count_if_left_out(); self.window = None
"""

from __future__ import annotations

import copy
import logging
import pickle
from collections import UserDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from accelerate.utils import gather_object
from huggingface_hub import EvalResult
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.training_args import OptimizerNames

from .callbacks import LineSearchCallback, line_search_of
from .checkpoints import last_complete_checkpoint
from .closure import LossClosure
from .hub import PushMixin
from .model_card import complete_card
from .optim import PLASLS, Joint, LineSearchOptimizer, layer_groups
from .private import public_attributes, without_paths
from .training_args import (
    SLSTrainingArguments,
    check_arguments,
    is_line_search,
    optimizer_class_and_kwargs,
    warn_of_arguments_without_effect,
)

logger = logging.getLogger(__name__)

_MISSING = object()
_NOT_OF_THE_FILE = (torch.OutOfMemoryError, torch.distributed.DistBackendError)

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class _with_or_without_an_instance:
    """A method that the Trainer has as a static one, and some of its subclasses as one of instances."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        return partial(self._function, instance if instance is not None else owner)


class LineSearchTrainerMixin(PushMixin, _Base):
    """Makes any Trainer subclass work with the line-search optimizers; put it first among the bases.

    With a stock `optim` every method passes through, and the Trainer is what it was. With a line search,
    `learning_rate` in the logs is the step size taken, and the logs carry, as means since the last log:

    - `step_size`: the step size of the last step; with a search for each layer also `step_size/embeddings` and so on,
    - `ls_trials`, `ls_backtracks`: forward passes of the search and rejected trials, per step,
    - `ls_skipped_steps`: the share of the steps that moved nothing, or not the layer that was searched,
    - `loss_decrease`: `f(w) - f(w + eta p)` per search, where there was one,
    - `slope`, `criterion_ratio`: the slope `s`, and the decrease over the one that the criterion asked for, per search
      that found a step, where there was one,

    and the final metrics `train_forward_passes_per_step`, the one with gradients included.

    A `compute_loss` of your own that counts or logs sees `self.in_trial` set while a trial replays it.

        >>> class MyTrainer(LineSearchTrainerMixin, Trainer):
        ...     pass
    """

    in_trial: bool = False
    """Whether the present `compute_loss` call is a trial of the line search."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.window: LossClosure | None = None
        self._recorded_inputs: list[Any] | None = None
        self._replayed_inputs: Iterator[Any] | None = None
        self._counts_at_last_log: dict[str, float] | None = None
        self._own_callbacks: list[TrainerCallback] = []
        super().__init__(*args, **kwargs)
        if self._wants_line_search():
            self._check_line_search()
            self._warn_of_learning_rate()
            if not isinstance(self.args, SLSTrainingArguments):
                warn_of_arguments_without_effect(self.args)

    def _line_search_callbacks(self) -> list[LineSearchCallback]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, LineSearchCallback)]

    # ---- Which optimizer ----

    @_with_or_without_an_instance
    def get_optimizer_cls_and_kwargs(this, args: TrainingArguments, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the line-search class and its arguments for its `optim` names, else what the Trainer returns.

        The parameters and their groups are those that the Trainer chooses for AdamW, which may be more than the
        model's: a loss with weights of its own. Learning rates of groups keep their ratio to `learning_rate`.
        """
        host = super().get_optimizer_cls_and_kwargs
        if not is_line_search(args.optim):
            return host(args, model)
        optimizer_class, kwargs = optimizer_class_and_kwargs(args)
        stock = copy.copy(args)
        stock.optim, stock.optim_args = OptimizerNames.ADAMW_TORCH, None
        _, of_stock = host(stock, model)
        groups = next((list(of_stock[key]) for key in ("params", "model", "optimizer_dict") if key in of_stock), None)
        if groups is not None and any("lr" in each for each in groups):
            rates = [each.get("lr", args.learning_rate) for each in groups]
            groups = [{**each, "lr": rate / max(rates)} for each, rate in zip(groups, rates)]
        if optimizer_class is PLASLS and model is not None:
            decaying = Trainer.get_decay_parameter_names(None, model)
            layers = layer_groups(model, kwargs.get("blocks", 8), args.weight_decay, decaying)
            groups = [*layers, *_not_in(layers, groups or [])]
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
        parallelism = getattr(self.accelerator, "parallelism_config", None)
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        refused = {
            "DeepSpeed": (self.is_deepspeed_enabled, "it steps inside backward, out of reach of a closure"),
            "FSDP1": (
                self.is_fsdp_enabled and getattr(plugin, "fsdp_version", 1) != 2,
                "it has no public way to reshard after a trial, which would then see stale parameters; "
                "set fsdp_version to 2",
            ),
            "nn.DataParallel": (
                self.args.n_gpu > 1,
                "its replicas draw their dropout in no fixed order; launch one process per GPU with torchrun or "
                "accelerate launch, or show one GPU with CUDA_VISIBLE_DEVICES",
            ),
            "tensor, context or sequence parallelism": (
                parallelism is not None
                and any(getattr(parallelism, f"{kind}_enabled", False) for kind in ("tp", "cp", "sp")),
                "a batch is sharded in place and cannot be evaluated again",
            ),
            "a model sharded at load time": (
                getattr(self, "is_distributed_loading_by_transformers", False),
                "trials would see stale unsharded parameters",
            ),
            "sparse gradients": (
                any(
                    isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad
                    for module in self.model.modules()
                ),
                "as with torch.optim.AdamW; use nn.Embedding(sparse=False)",
            ),
            "loss_type='dft'": (
                getattr(self.args, "loss_type", None) == "dft",
                "its gradient is not that of its value, which a trial looks at; use 'nll'",
            ),
            "Apex": (getattr(self, "use_apex", False), "its backward cannot be turned off for a trial"),
        }
        for feature, (present, reason) in refused.items():
            if present:
                raise ValueError(f"A line search does not work with {feature}: {reason}.")

    def _warn_of_learning_rate(self) -> None:
        if is_line_search(self.args.optim) and self.args.learning_rate != type(self.args).learning_rate:
            logger.warning(
                f"learning_rate={self.args.learning_rate} is not used: a line search finds the step size itself. "
                "lr_scheduler_type says which share of it is taken."
            )

    def _hp_search_setup(self, trial: Any) -> None:
        """Set the trial up, and say so where it searches over what has no effect."""
        before = self.args.learning_rate
        super()._hp_search_setup(trial)
        if self.args.learning_rate != before and self._wants_line_search():
            self._warn_of_learning_rate()

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Create the schedule as the Trainer does; the optimizer is there now, whoever made it, and is checked."""
        if self.line_search_optimizer is not None:
            self._check_line_search()
            if self.is_in_train:
                self._add_own_callbacks()
        return super().create_scheduler(*args, **kwargs)

    # ---- Checkpoints ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; `resume_from_checkpoint=True` takes the latest checkpoint that is complete."""
        if resume_from_checkpoint is True and self._wants_line_search():
            found = gather_object([last_complete_checkpoint(self.args.output_dir)])
            if len(set(found)) > 1:
                raise ValueError(
                    f"resume_from_checkpoint=True: the processes see different checkpoints as the last complete one, "
                    f"{', '.join(map(repr, found))}. Name one that all of them have."
                )
            resume_from_checkpoint = found[0]
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            if self.line_search_optimizer is None or isinstance(error, _NOT_OF_THE_FILE):
                raise
            raise ValueError(
                f"resume_from_checkpoint={checkpoint!r}: the state of its optimizer or schedule cannot be read "
                f"({error}). Resume from another checkpoint."
            ) from error

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Save as the Trainer does, without secrets and paths in `training_args.bin`, which is pushed to the Hub."""
        super()._save(output_dir, *args, **kwargs)
        saved = Path(output_dir if output_dir is not None else self.args.output_dir) / TRAINING_ARGS_NAME
        if saved.exists():
            public = copy.copy(self.args)
            vars(public).update(without_paths(public_attributes(self.args)))
            torch.save(public, saved)

    # ---- The closure ----

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Start afresh, as `train()` may be called again and `auto_find_batch_size` begins again after a failure."""
        self.window = self._counts_at_last_log = None
        if self._wants_line_search():
            self._add_own_callbacks()
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self.window = None
            for callback in self._own_callbacks:
                self.remove_callback(callback)
            self._own_callbacks = []

    def _add_own_callbacks(self) -> None:
        if not self._own_callbacks:
            self._own_callbacks = [_HandOver(self)]
            if not self._line_search_callbacks():
                self._own_callbacks.append(LineSearchCallback())
            for callback in self._own_callbacks:
                self.add_callback(callback)
        for shown in self._line_search_callbacks():
            shown.shown_beside = self.callback_handler.callbacks

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Run forward and backward as the Trainer does; with a line search also record them in the window."""
        optimizer = self.line_search_optimizer
        step = super().training_step
        if optimizer is None:
            return step(model, inputs, *args, **kwargs)
        if self.window is None:
            self.window = LossClosure(model, trials=optimizer.search_due)
        if self._counts_at_last_log is None:
            self._counts_at_last_log = optimizer.counts
        if not self.window.trials:
            return self.window.record(lambda: step(model, inputs, *args, **kwargs))
        recorded: list[Any] = []
        raw = _copied(inputs)
        accumulation_steps = self.current_gradient_accumulation_steps

        def evaluate() -> Tensor:
            with _temporarily(self, "_recorded_inputs", recorded):
                return step(model, inputs, *args, **kwargs)

        def replay() -> Tensor:
            with self._replaying(recorded, accumulation_steps):
                return step(model, _copied(raw), *args, **kwargs)

        return self.window.record(evaluate, replay)

    def _prepare_inputs(self, inputs: Any) -> Any:
        if self._replayed_inputs is not None:
            return _copied(next(self._replayed_inputs))
        prepared = super()._prepare_inputs(inputs)
        if self._recorded_inputs is not None:
            self._recorded_inputs.append(_copied(prepared))
        return prepared

    @contextmanager
    def _replaying(self, recorded_inputs: Sequence[Any], accumulation_steps: int) -> Iterator[None]:
        """Replay a micro-batch: its inputs, its scaling, no backward, and no trace in what the trainer counts."""
        with ExitStack() as stack:
            stack.enter_context(_counters_kept(self))
            stack.enter_context(_temporarily(self, "in_trial", True))
            stack.enter_context(_temporarily(self, "current_gradient_accumulation_steps", accumulation_steps))
            stack.enter_context(_temporarily(self, "_replayed_inputs", iter(recorded_inputs)))
            stack.enter_context(_temporarily(self.accelerator, "backward", lambda loss, **kwargs: None))
            yield

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.clip_grad_norm_ = self._undoing_clipping_in_slope(self.accelerator.clip_grad_norm_)

    def _undoing_clipping_in_slope(self, clip_grad_norm_: Callable[..., Any]) -> Callable[..., Any]:
        """Tell the window by which factor clipping has shrunk the gradient."""

        def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            norm = clip_grad_norm_(parameters, max_norm, *args, **kwargs)
            if self.window is not None:
                self.window.clipped(norm, max_norm)
            return norm

        return clip

    def _mixed_mesh_grad_norm(self, model: nn.Module, max_norm: float) -> Any:
        return self._undoing_clipping_in_slope(super()._mixed_mesh_grad_norm)(model, max_norm)

    # ---- Logs ----

    def _get_learning_rate(self) -> float:
        optimizer = self.line_search_optimizer
        if optimizer is None:
            return super()._get_learning_rate()
        return optimizer.param_groups[0]["step_size"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, with the numbers of the line search added to the training logs; not in a trial."""
        if self.in_trial:
            return
        optimizer = self.line_search_optimizer
        if optimizer is not None and self._counts_at_last_log is not None:
            counts = optimizer.counts
            if "loss" in logs:
                since = {name: counts[name] - self._counts_at_last_log[name] for name in counts}
                logs["step_size"] = optimizer.param_groups[0]["step_size"]
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
        """Write the Trainer's model card; with a line search, its rules, step sizes, cost and picture are added.

        Args:
            *args: as for the Trainer.
            snippet: Markdown that says how to repeat the run; by default, with a line search, the training arguments.
            picture: a file in `output_dir` to show; by default, with a line search, `run.png`, drawn now where
                matplotlib is installed.
            eval_results: the results for `model-index`, in place of the last evaluation in the log.
            **kwargs: as for the Trainer.
        """
        super().create_model_card(*args, **kwargs)
        optimizer = self.line_search_optimizer
        if self.is_world_process_zero() and (optimizer is not None or snippet or picture or eval_results):
            card = Path(self.args.output_dir) / "README.md"
            complete_card(card, self, optimizer, snippet, picture, eval_results)


class _HandOver(TrainerCallback):
    """Gives the window to the optimizer for the step, and takes it back after it."""

    def __init__(self, trainer: LineSearchTrainerMixin) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        optimizer = self._trainer.line_search_optimizer
        if optimizer is not None:
            optimizer.closure = self._trainer.window

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        optimizer = self._trainer.line_search_optimizer
        if optimizer is not None:
            optimizer.count_if_left_out()
        self._trainer.window = None


class SLSTrainer(LineSearchTrainerMixin, Trainer):
    """`transformers.Trainer` that works with `optim="adam_sls"` and the other line-search names.

    Use it in place of `Trainer`, with the same arguments. With a stock `optim` it trains as that does, bit for bit.

    Raises:
        ValueError: the arguments do not suit a line search (unknown `optim_args`, DeepSpeed, FSDP1, `nn.DataParallel`);
            raised when the trainer is created.
    """


def _step_size_of_each_layer(optimizer: LineSearchOptimizer) -> dict[str, float]:
    """Return the step sizes for the log, of layers that are searched one by one."""
    if isinstance(optimizer.partition, Joint):
        return {}
    return {
        f"step_size/{group.get('layer_name', group.get('layer', index))}": group["step_size"]
        for index, group in enumerate(optimizer.param_groups)
    }


def _not_in(layers: list[dict[str, Any]], groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parameters of `groups` that no layer has, as one layer more."""
    known = {id(parameter) for layer in layers for _, parameter in layer["params"]}
    place = {"layer": 1 + max((layer["layer"] for layer in layers), default=-1), "layer_name": "others"}
    left = [{**group, "params": [p for p in group["params"] if id(p) not in known], **place} for group in groups]
    for group in left:
        group["params"] = [(f"others.{index}", parameter) for index, parameter in enumerate(group["params"])]
    return [group for group in left if group["params"]]


def _copied(value: Any) -> Any:
    """Return a copy of nested inputs in which tensors and containers may be changed."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, UserDict):
        wrapper = copy.copy(value)
        wrapper.data = _copied(value.data)
        return wrapper
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update({key: _copied(each) for key, each in value.items()})
        return copied
    if isinstance(value, list):
        return [_copied(each) for each in value]
    return value


@contextmanager
def _counters_kept(trainer: Trainer) -> Iterator[None]:
    """Put back what a trainer counts: its attributes that are numbers, and containers, with what is in them.

    Data sets are left alone, which may be lists too.
    """
    kept = {
        name: (value, _contents(value))
        for name, value in vars(trainer).items()
        if not name.endswith("dataset") and (value is None or isinstance(value, (*_NUMBERS, *_CONTAINERS)))
    }
    try:
        yield
    finally:
        for name, (value, contents) in kept.items():
            _put_back(value, contents)
            setattr(trainer, name, value)


_NUMBERS = (bool, int, float, str, tuple)
_CONTAINERS = (dict, list, set, deque)


def _contents(value: Any) -> Any:
    """Return what a container holds, level by level."""
    if isinstance(value, dict):
        return {key: (each, _contents(each)) for key, each in value.items()}
    if isinstance(value, (list, deque)):
        return [(each, _contents(each)) for each in value]
    return set(value) if isinstance(value, set) else None


def _put_back(value: Any, contents: Any) -> None:
    """Fill a container with what it held, and the containers in it."""
    if isinstance(value, dict):
        if value.keys() != contents.keys() or any(value[key] is not each for key, (each, _) in contents.items()):
            value.clear()
            value.update({key: each for key, (each, _) in contents.items()})
        for each, inner in contents.values():
            _put_back(each, inner)
    elif isinstance(value, (list, deque)):
        if len(value) != len(contents) or any(now is not each for now, (each, _) in zip(value, contents)):
            value.clear()
            value.extend(each for each, _ in contents)
        for each, inner in contents:
            _put_back(each, inner)
    elif isinstance(value, set) and value != contents:
        value.clear()
        value.update(contents)


@contextmanager
def _temporarily(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an instance for the length of the block."""
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
