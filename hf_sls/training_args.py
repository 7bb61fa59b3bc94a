"""`SLSTrainingArguments`, and the line-search names of `optim=` in transformers' own `TrainingArguments`.

Importing this module adds the names to `OptimizerNames`, so that `TrainingArguments` of any class accept them. A stock
Trainer refuses them with a message that says what to use instead.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
import transformers
from packaging.version import Version
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from .optim import OPTIMIZERS, PRESETS, LineSearchOptimizer, SearchSettings
from .optim._validation import check_range
from .optim.registry import warn_of_settings_without_effect, with_preset

_ADAM_ARGUMENTS = {"adam_beta1": "betas", "adam_beta2": "betas", "adam_epsilon": "eps"}
"""The setting of `optim_args` that overrides each."""

_LEARNING_RATE_AT_THE_END = {
    "cosine_with_min_lr": "min_lr",
    "cosine_warmup_with_min_lr": "min_lr",
    "polynomial": "lr_end",
}
"""By schedule, the argument that is a learning rate with AdamW."""

_LEAST_FRACTION = 0.01
"""A fraction below it is taken for a learning rate."""

_NOT_IN_OPTIM_ARGS = ("return", "params", "search", "weight_decay")
_SET_BY = {
    "lr": "A line search has no learning rate: init_step_size is where the first search starts. ",
    "learning_rate": "A line search has no learning rate: init_step_size is where the first search starts. ",
    "weight_decay": "The argument weight_decay sets it. ",
}
"""Hints for names that `optim_args` do not take."""

_KINDS = {bool: "true or false", int: "an integer", float: "a number"}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass
class SLSTrainingArguments(TrainingArguments):
    """`TrainingArguments` whose default is `optim="adam_sls"`, and which check `optim_args` when they are created.

    A line search does not use `learning_rate`; `lr_scheduler_type` and the warm-up set the fraction of the step size
    found that is taken, 1 at most. `optim_args="c=0.2,..."` sets arguments of the optimizer class, and
    `optim_args="preset=published"` the values of its paper. All other arguments keep their meaning, `adam_beta2`,
    `adam_epsilon` and `weight_decay` among them. One value is special, in any class of arguments: `adam_beta1=0.9`, the
    default, stands for the optimizer's own, which is 0.8 for `adam_sls` and `amsgrad_sls`. To train these with 0.9, set
    `optim_args="betas=0.9/0.999"`.

    Raises:
        ValueError: `optim_args` are unknown, of the wrong type or out of range for the optimizer.
    """

    optim: OptimizerNames | str = field(
        default="adam_sls", metadata={"help": "The optimizer to use. One with a line search needs no learning rate."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_line_search(self.optim):
            check_arguments(self)
            warn_of_arguments_without_effect(self)


def is_line_search(optim: str) -> bool:
    """Whether `optim` names an optimizer of this package."""
    return as_string(optim) in OPTIMIZERS


def as_string(name: str) -> str:
    """Return a string or a member of an enum of transformers, `OptimizerNames` for one, as a plain string."""
    return str(getattr(name, "value", name))


def _parsed(args: TrainingArguments) -> tuple[str, str | None, dict[str, Any]]:
    """Return the name of the optimizer, the preset, and the other settings in `args.optim_args`."""
    name = as_string(args.optim)
    settings = parse_optim_args(name, args.optim_args)
    return name, settings.pop("preset", None), settings


def optimizer_class_and_kwargs(args: TrainingArguments) -> tuple[type[LineSearchOptimizer], dict[str, Any]]:
    """Return the class that `args.optim` names, and its arguments.

    `optim_args` override the preset in them; their `betas` and `eps` override `adam_beta1`, `adam_beta2` and
    `adam_epsilon`. The default of `adam_beta1` stands for that of the preset or the optimizer.
    """
    name, preset, settings = _parsed(args)
    cls, kwargs = OPTIMIZERS[name], with_preset(name, preset, settings)
    if _has_betas(cls):
        own, _ = kwargs.get("betas", inspect.signature(cls).parameters["betas"].default)
        by_default = args.adam_beta1 == TrainingArguments.adam_beta1 == type(args).adam_beta1
        betas = (own if by_default else args.adam_beta1, args.adam_beta2)
        kwargs = {"eps": args.adam_epsilon, **kwargs, "betas": settings.get("betas", betas)}
    return cls, kwargs


def _has_betas(cls: type[LineSearchOptimizer]) -> bool:
    return "betas" in inspect.signature(cls).parameters


def check_arguments(args: TrainingArguments) -> None:
    """Raise `ValueError` if the `optim_args` do not suit the line search, before a model is touched."""
    if is_line_search(args.optim):
        cls, kwargs = optimizer_class_and_kwargs(args)
        if _has_betas(cls):
            for name in ("adam_beta1", "adam_beta2"):
                check_range(name, getattr(args, name), low=0.0, high=1.0, include_high=False)
            check_range("adam_epsilon", args.adam_epsilon, low=0.0)
        cls([torch.zeros(())], **kwargs)


def warn_of_arguments_without_effect(args: TrainingArguments) -> None:
    """Warn of arguments that the line search does not use, or that another argument overrides."""
    if not is_line_search(args.optim):
        return
    name, preset, settings = _parsed(args)
    warn_of_settings_without_effect(name, preset, settings)
    defaults = {each.name: each.default for each in fields(args)}
    given = [key for key in _ADAM_ARGUMENTS if getattr(args, key) != defaults[key]]
    for key in given:
        setting = _ADAM_ARGUMENTS[key]
        if not _has_betas(OPTIMIZERS[name]):
            warnings.warn(f"{key}={getattr(args, key)} has no effect on {name!r}, which is not Adam.", stacklevel=3)
        if setting in settings:
            warnings.warn(
                f"{key}={getattr(args, key)} has no effect beside optim_args={args.optim_args!r}, whose {setting} "
                "counts.",
                stacklevel=3,
            )
    schedule = args.lr_scheduler_kwargs if isinstance(args.lr_scheduler_kwargs, dict) else {}
    key = _LEARNING_RATE_AT_THE_END.get(as_string(args.lr_scheduler_type), "")
    if isinstance(schedule.get(key), float) and 0 < schedule[key] < _LEAST_FRACTION:
        warnings.warn(
            f"lr_scheduler_kwargs={schedule!r}: {key} is not a learning rate here. It is the fraction of the step "
            f"size found that is taken at the end; {key}=0.1 ends at a tenth of it.",
            stacklevel=3,
        )
    if args.optim_target_modules is not None:
        warnings.warn(
            f"optim_target_modules={args.optim_target_modules!r} has no effect on {name!r}; it is for GaLore, APOLLO "
            "and LOMO.",
            stacklevel=3,
        )


def parse_optim_args(optim: str, text: str | None) -> dict[str, Any]:
    """Parse `"c=0.1,growth=1.2"` into arguments of the optimizer `optim`, with the types of its signature.

    Raises:
        ValueError: an argument is unknown, given twice or of the wrong type; the message lists what is allowed.
    """
    name = as_string(optim)
    if text is not None and not isinstance(text, str):
        raise ValueError(f'optim_args={text!r} is not allowed: a string is needed, such as "c=0.1,growth=1.2".')
    allowed = _settings(name)
    listing = ", ".join(f"{key} ({_describe(kind)})" for key, kind in allowed.items())
    settings: dict[str, Any] = {}
    for part in filter(None, (text or "").replace(" ", "").split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in allowed or key in settings:
            problem = "is given twice" if key in settings else "is unknown" if equals else "has no '=value'"
            raise ValueError(f"optim_args={text!r}: {key!r} {problem}. {_SET_BY.get(key, '')}{name} takes {listing}.")
        try:
            settings[key] = _converted(value, allowed[key])
        except ValueError:
            raise ValueError(
                f"optim_args={text!r}: {key}={value!r} is not {_describe(allowed[key])}. {name} takes {listing}."
            ) from None
    return settings


def _settings(name: str) -> dict[str, Any]:
    """Return the arguments that `optim_args` may set, with their types."""
    hints = {**get_type_hints(OPTIMIZERS[name].__init__), **get_type_hints(SearchSettings)}
    presets = tuple(preset for preset, settings in PRESETS.items() if name in settings)
    return {"preset": Literal[presets], **{key: kind for key, kind in hints.items() if key not in _NOT_IN_OPTIM_ARGS}}


def _describe(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "two numbers, as in 0.9/0.999"
    return " or ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else _KINDS[kind]


def _converted(value: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(value)
        return value
    if get_origin(kind) is tuple:
        first, second = value.split("/")
        return float(first), float(second)
    if kind is bool:
        if value.lower() not in _BOOLEANS:
            raise ValueError(value)
        return _BOOLEANS[value.lower()]
    return kind(value)


def _register_names() -> None:
    for name in OPTIMIZERS:
        if name not in OptimizerNames._value2member_map_:
            _add_member(OptimizerNames, name)
    if Version(transformers.__version__) >= Version("5.2"):
        from transformers.trainer_optimizer import _OPTIMIZER_HANDLERS

        for name in OPTIMIZERS:
            _OPTIMIZER_HANDLERS[name] = lambda context: _refuse(context.args)
    else:
        stock = transformers.Trainer.get_optimizer_cls_and_kwargs

        def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: Any = None) -> tuple[Any, dict[str, Any]]:
            return _refuse(args) if is_line_search(args.optim) else stock(args, model)

        transformers.Trainer.get_optimizer_cls_and_kwargs = staticmethod(get_optimizer_cls_and_kwargs)


def _refuse(args: TrainingArguments) -> tuple[Any, dict[str, Any]]:
    raise ValueError(
        f"optim={as_string(args.optim)!r} is a line search: it evaluates the loss of each batch several times, "
        "which this Trainer does not support. Use hf_sls.SLSTrainer in place of transformers.Trainer, or put "
        "hf_sls.LineSearchTrainerMixin first among the bases of your own Trainer subclass. A create_optimizer() of "
        "your own calls self.get_optimizer_cls_and_kwargs(self.args), not that of Trainer."
    )


def _add_member(enum: Any, value: str) -> None:
    """Add a member to a string enum as the class statement would; it pickles as a plain string.

    An enum with members cannot be subclassed, and transformers has no public way to add an optimizer.
    """
    member = str.__new__(enum, value)
    member._name_, member._value_, member.__objclass__ = value.upper(), value, enum
    member._sort_order_ = len(enum._member_names_)
    member.__reduce_ex__ = lambda protocol: (str, (value,))
    enum._member_map_[member._name_] = member
    enum._member_names_.append(member._name_)
    enum._value2member_map_[value] = member
    if "_hashable_values_" in enum.__dict__:
        enum._hashable_values_.append(value)
    type.__setattr__(enum, member._name_, member)


_register_names()
