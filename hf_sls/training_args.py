"""`SLSTrainingArguments`, and the `optim=` names in transformers' own `TrainingArguments`.

Importing this module adds the names to `OptimizerNames`, so that every script that builds stock arguments after
`import hf_sls` accepts them, and makes a stock Trainer refuse them with a sentence.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
import transformers
from packaging.version import Version
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from .optim import OPTIMIZERS, PRESETS, LineSearchOptimizer, SearchSettings
from .optim.registry import warn_of_settings_without_effect, with_preset
from .private import public_attributes

_SET_ELSEWHERE = ("return", "params", "betas", "search", "weight_decay")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass
class SLSTrainingArguments(TrainingArguments):
    """`TrainingArguments` with `optim="adam_sls"` for default, and `optim_args` checked when they are made.

    Everything else is inherited. `learning_rate` is not used by a line search; `lr_scheduler_type` and the warm-up say
    which share of the step found is taken, from 1. `optim_args="c=0.2,..."` sets the arguments of the
    optimizer class, `optim_args="preset=published"` those of its paper, and `adam_beta1`, `adam_beta2`, `adam_epsilon`
    and `weight_decay` keep their meaning.

    Raises:
        ValueError: `optim_args` are unknown, of the wrong type or out of range for the optimizer.
    """

    optim: OptimizerNames | str = field(
        default="adam_sls", metadata={"help": "The optimizer to use; a line-search one needs no learning rate."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_line_search(self.optim):
            check_arguments(self)
            warn_of_arguments_without_effect(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave tokens and keys out of a pickle: `training_args.bin` is pushed to the Hub. A copy keeps them."""
        return public_attributes(self)

    def __copy__(self) -> SLSTrainingArguments:
        copied = object.__new__(type(self))
        copied.__dict__.update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> SLSTrainingArguments:
        copied = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(vars(self), memo))
        return copied


def is_line_search(optim: str) -> bool:
    """Whether `optim` names an optimizer of this package."""
    return getattr(optim, "value", optim) in OPTIMIZERS


def optimizer_class_and_kwargs(args: TrainingArguments) -> tuple[type[LineSearchOptimizer], dict[str, Any]]:
    """Return the class that `args.optim` names, and its arguments: recommended, of `args`, of `args.optim_args`."""
    name = str(getattr(args.optim, "value", args.optim))
    cls = OPTIMIZERS[name]
    has_adams_moments = "betas" in inspect.signature(cls).parameters
    kwargs = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon} if has_adams_moments else {}
    settings = parse_optim_args(name, args.optim_args)
    return cls, {**kwargs, **with_preset(name, settings.pop("preset", None), settings)}


def check_arguments(args: TrainingArguments) -> None:
    """Raise `ValueError` when the `optim_args` do not suit the line search, before a model is touched."""
    if is_line_search(args.optim):
        cls, kwargs = optimizer_class_and_kwargs(args)
        cls([torch.zeros(())], **kwargs)


def warn_of_arguments_without_effect(args: TrainingArguments) -> None:
    """Warn of `optim_args` that the line search does not use."""
    if is_line_search(args.optim):
        name = str(getattr(args.optim, "value", args.optim))
        settings = parse_optim_args(name, args.optim_args)
        warn_of_settings_without_effect(name, settings.pop("preset", None), settings)


def parse_optim_args(optim: str, text: str | None) -> dict[str, Any]:
    """Read `"c=0.1,growth=1.2"` as arguments of the optimizer `optim`, typed as its signature says.

    Raises:
        ValueError: an argument is unknown, given twice, of the wrong type or out of range; the message lists what is
            allowed.
    """
    name = getattr(optim, "value", optim)
    if text is not None and not isinstance(text, str):
        raise ValueError(
            f'optim_args={text!r} is not allowed: a text is needed, "c=0.1,growth=1.2" for example, as the Trainer '
            "has it."
        )
    allowed = _settings(name)
    listing = ", ".join(f"{key} ({_describe(kind)})" for key, kind in allowed.items())
    settings: dict[str, Any] = {}
    for part in filter(None, (text or "").replace(" ", "").split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in allowed or key in settings:
            problem = "is given twice" if key in settings else "is unknown" if equals else "has no '=value'"
            raise ValueError(f"optim_args={text!r}: {key!r} {problem}. {name} takes {listing}.")
        try:
            settings[key] = _converted(value, allowed[key])
        except ValueError:
            raise ValueError(
                f"optim_args={text!r}: {key}={value!r} is not {_describe(allowed[key])}. {name} takes {listing}."
            ) from None
    return settings


def _settings(name: str) -> dict[str, Any]:
    """Return the arguments of an optimizer that `optim_args` may set, with their types."""
    hints = {**get_type_hints(OPTIMIZERS[name].__init__), **get_type_hints(SearchSettings)}
    presets = tuple(preset for preset, settings in PRESETS.items() if name in settings)
    return {"preset": Literal[presets], **{key: kind for key, kind in hints.items() if key not in _SET_ELSEWHERE}}


def _describe(kind: Any) -> str:
    return " or ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else kind.__name__


def _converted(value: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(value)
        return value
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
        f"optim={str(getattr(args.optim, 'value', args.optim))!r} is a line search and needs the loss of each batch, "
        "which this Trainer cannot give it. Use hf_sls.SLSTrainer in place of transformers.Trainer, or put "
        "hf_sls.LineSearchTrainerMixin first among the bases of your own Trainer subclass."
    )


def _add_member(enum: Any, value: str) -> None:
    """Add a member to a string enum as the class statement would; it pickles as its plain string.

    An enum with members cannot be subclassed, and transformers has no other way in.
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
