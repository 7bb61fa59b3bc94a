"""The routes by which `optim="adam_sls"` and its arguments reach the optimizer, and the refusals on the way."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import HfArgumentParser, Seq2SeqTrainingArguments, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

import hf_sls
from hf_sls import SLSTrainer, SLSTrainingArguments
from hf_sls.optim import OPTIMIZERS, PRESETS, create_optimizer
from hf_sls.training_args import optimizer_class_and_kwargs, parse_optim_args

from .conftest import classification_rows, tiny_bert

STOCK = (TrainingArguments, Seq2SeqTrainingArguments)
ALL = (*STOCK, SLSTrainingArguments)


def in_fresh_process(code: str) -> list[Any]:
    """Return the lines that the code prints as JSON."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.filterwarnings("ignore:c=.* has no effect")
@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_route_of_the_arguments(cls: Any, name: str, tmp_path: Path) -> None:
    settings = {"output_dir": str(tmp_path), "optim": name, "optim_args": "c=0.3", "hub_token": "secret"}
    args = cls(**settings)
    assert args.optim == name
    assert json.loads(args.to_json_string())["optim"] == name
    assert args.to_dict()["optim"] == name
    for again in (
        cls(**{**settings, "optim": args.to_dict()["optim"]}),
        dataclasses.replace(args),
        copy.copy(args),
        copy.deepcopy(args),
        HfArgumentParser(cls).parse_dict(settings)[0],
        HfArgumentParser(cls).parse_args_into_dataclasses(
            ["--output_dir", str(tmp_path), "--optim", name, "--optim_args", "c=0.3", "--hub_token", "secret"]
        )[0],
    ):
        assert again.optim == name
        assert again.optim_args == "c=0.3"
        assert again.hub_token == "secret"
    (tmp_path / "args.json").write_text(json.dumps(settings))
    assert HfArgumentParser(cls).parse_json_file(str(tmp_path / "args.json"))[0].optim == name
    assert args.set_optimizer(name=name).optim == name


def test_optim_args_reach_the_optimizer(arguments: Any) -> None:
    optim_args = "c=0.75, look_back=false, growth=1.5, max_trials=9, shrink=0.7, search_direction=gradient"
    args = arguments(optim_args=optim_args)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.train()
    optimizer = trainer.line_search_optimizer
    assert optimizer.criterion.c == 0.75
    assert optimizer.initial_step.growth == 1.5
    assert optimizer.backtracking.max_trials == 9
    assert optimizer.direction.search == "gradient"
    assert optimizer.backtracking.shrink == 0.7


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_is_its_class_and_what_the_trainer_makes_of_it(name: str, arguments: Any) -> None:
    model = tiny_bert()
    for preset in (None, *(preset for preset, names in PRESETS.items() if name in names)):
        created = create_optimizer(name, model.parameters(), preset=preset)
        args = arguments(optim=name, optim_args=preset and f"preset={preset}")
        trainer = SLSTrainer(model=model, args=args, train_dataset=classification_rows())
        trainer.create_optimizer()
        assert trainer.line_search_optimizer.describe() == created.describe()
        if preset is None:
            assert OPTIMIZERS[name](model.parameters()).describe() == created.describe()


@pytest.mark.parametrize("cls", [SLSTrainingArguments, TrainingArguments])
@pytest.mark.parametrize(
    ("settings", "betas"),
    [
        ({}, (0.8, 0.999)),
        ({"adam_beta1": 0.95, "adam_beta2": 0.98}, (0.95, 0.98)),
        ({"adam_beta2": 0.98}, (0.8, 0.98)),
        ({"optim_args": "preset=published"}, (0.9, 0.999)),
        ({"optim_args": "preset=published", "adam_beta1": 0.5}, (0.5, 0.999)),
        ({"optim_args": "preset=authors_code"}, (0.9, 0.999)),
        ({"optim_args": "betas=0.9/0.999"}, (0.9, 0.999)),
        ({"optim": "amsgrad_sls", "adam_beta1": 0.9}, (0.8, 0.999)),
        ({"optim": "plasls"}, (0.9, 0.999)),
    ],
)
def test_beta1_is_the_optimizers_own_unless_it_is_set(
    cls: type[TrainingArguments], settings: dict[str, Any], betas: tuple[float, float], arguments: Any
) -> None:
    args = arguments(cls, **{"optim": "adam_sls", **settings})
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.create_optimizer()
    assert trainer.line_search_optimizer.direction.betas == betas


def test_a_default_of_beta1_that_a_subclass_chooses_counts(arguments: Any) -> None:
    @dataclasses.dataclass
    class Arguments(SLSTrainingArguments):
        adam_beta1: float = 0.95

    for given, beta1 in (({}, 0.95), ({"adam_beta1": 0.9}, 0.9)):
        _, kwargs = optimizer_class_and_kwargs(arguments(Arguments, **given))
        assert kwargs["betas"] == (beta1, 0.999)


def test_a_preset_can_be_overridden_and_an_unknown_one_is_refused() -> None:
    parameters = [torch.zeros(2, requires_grad=True)]
    published = create_optimizer("adam_sls", parameters, preset="published", c=0.3)
    assert (published.criterion.c, published.backtracking.shrink) == (0.3, 0.9)
    assert parse_optim_args("adam_sls", "preset=authors_code") == {"preset": "authors_code"}
    with pytest.raises(ValueError, match="preset='authors_code' is not a preset of 'ponos'; it has 'published'"):
        create_optimizer("ponos", parameters, preset="authors_code")
    with pytest.raises(ValueError, match="preset='mine' is not 'published' or 'authors_code'"):
        parse_optim_args("adam_sls", "preset=mine")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("d=0.1", "'d' is unknown"),
        ("c=0.1,c=0.2", "'c' is given twice"),
        ("c", "'c' has no '=value'"),
        ("c=much", "c='much' is not a number"),
        ("max_trials=1.5", "max_trials='1.5' is not an integer"),
        ("betas=0.9", "betas='0.9' is not two numbers, as in 0.9/0.999"),
        ("interpolate=perhaps", "interpolate='perhaps' is not true or false"),
        ("search_direction=newton", "search_direction='newton' is not 'gradient' or 'momentum'"),
        ("weight_decay=0.1", "'weight_decay' is unknown. The argument weight_decay sets it."),
        ("lr=0.1", "'lr' is unknown. A line search has no learning rate: init_step_size"),
    ],
)
@pytest.mark.parametrize("cls", ALL)
def test_bad_optim_args_are_refused_before_training(text: str, problem: str, cls: Any, arguments: Any) -> None:
    with pytest.raises(ValueError) as refusal:
        SLSTrainer(model=tiny_bert(), args=arguments(cls, optim="adam_sls", optim_args=text))
    assert problem in str(refusal.value)
    assert "adam_sls takes preset ('published' or 'authors_code'), init_step_size (a number)" in str(refusal.value)


def test_optim_args_out_of_range_are_refused_before_training(arguments: Any) -> None:
    for cls in ALL:
        with pytest.raises(ValueError, match=r"c=7.0 is not allowed: a number in \[1e-12, 1.0\)"):
            SLSTrainer(model=tiny_bert(), args=arguments(cls, optim="adam_sls", optim_args="c=7"))


@pytest.mark.parametrize(("name", "value"), [("adam_beta1", 1.5), ("adam_beta2", -0.1), ("adam_epsilon", -1.0)])
def test_arguments_of_adam_out_of_range_are_refused_by_name(name: str, value: float, arguments: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}={value} is not allowed"):
        arguments(optim="adam_sls", **{name: value})


@pytest.mark.parametrize("value", [{"c": 0.1}, ["c=0.1"], 5])
@pytest.mark.parametrize("cls", ALL)
def test_optim_args_of_another_kind_are_refused_with_a_sentence(cls: Any, value: Any, arguments: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="optim_args=.* is not allowed: a string is needed"):
        SLSTrainer(model=tiny_bert(), args=arguments(cls, optim="adam_sls", optim_args=value))


@pytest.mark.parametrize(("name", "value"), [("growth", 1e300), ("init_step_size", 1e300), ("c", 5e-324)])
def test_settings_have_bounds_above_and_below(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} is not allowed: a number in")):
        create_optimizer("adam_sls", [torch.zeros(2, requires_grad=True)], **{name: value})


def test_spaces_and_an_empty_text_are_fine() -> None:
    assert parse_optim_args("adam_sls", None) == parse_optim_args("adam_sls", "") == {}
    assert parse_optim_args("sgd_sls", " c = 0.2 , max_trials = 3 ") == {"c": 0.2, "max_trials": 3}
    assert parse_optim_args("sgd_sls", "search_rate=inf") == {"search_rate": float("inf")}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_trainer_without_closure_fails_before_the_first_step(name: str, arguments: Any) -> None:
    model = tiny_bert()
    before = [parameter.clone() for parameter in model.parameters()]
    trainer = Trainer(model=model, args=arguments(TrainingArguments, optim=name), train_dataset=classification_rows())
    with pytest.raises(ValueError, match="hf_sls.SLSTrainer"):
        trainer.train()
    assert all(torch.equal(x, y) for x, y in zip(before, model.parameters()))


def test_a_stock_trainer_with_an_instance_says_what_to_use(arguments: Any) -> None:
    model = tiny_bert()
    optimizer = hf_sls.AdamSLS(model.parameters())
    args = arguments(TrainingArguments)
    trainer = Trainer(model=model, args=args, train_dataset=classification_rows(), optimizers=(optimizer, None))
    with pytest.raises(RuntimeError, match="hf_sls.SLSTrainer"):
        trainer.train()


def test_unknown_names_are_refused_as_before(tmp_path: Path) -> None:
    for cls in ALL:
        with pytest.raises(ValueError, match="adam_slz is not a valid OptimizerNames.*adam_sls"):
            cls(output_dir=str(tmp_path), optim="adam_slz")


def test_stock_names_still_work_and_registration_is_idempotent(tmp_path: Path) -> None:
    before = list(OptimizerNames)
    hf_sls.training_args._register_names()
    assert list(OptimizerNames) == before
    assert len({member.value for member in before}) == len(before)
    assert TrainingArguments(output_dir=str(tmp_path), optim="adamw_torch").optim is OptimizerNames.ADAMW_TORCH
    assert OptimizerNames("adam_sls") is OptimizerNames.ADAM_SLS
    assert "adam_sls" in [member.value for member in OptimizerNames]


def test_the_core_imports_torch_only_and_stock_arguments_load_without_the_package(tmp_path: Path) -> None:
    """For the first the parent package is stubbed out, as it imports transformers to register the names."""
    torch.save(TrainingArguments(output_dir=str(tmp_path), optim="adam_sls"), tmp_path / "training_args.bin")
    code = f"""
import json, sys, types
parent = types.ModuleType("hf_sls")
parent.__path__ = [{str(Path(hf_sls.__file__).parent)!r}]
sys.modules["hf_sls"] = parent
import hf_sls.optim
loaded = {{name.split(".")[0] for name in sys.modules}}
print(json.dumps(sorted(loaded & {{"transformers", "accelerate", "datasets", "evaluate"}})))

for name in [name for name in sys.modules if name.split(".")[0] == "hf_sls"]:
    del sys.modules[name]
sys.modules["hf_sls"] = None
import torch
args = torch.load({str(tmp_path / "training_args.bin")!r}, weights_only=False)
print(json.dumps([args.optim, type(args).__name__]))
"""
    assert in_fresh_process(code) == [[], ["adam_sls", "TrainingArguments"]]


def test_the_package_is_loaded_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    """Our arguments load by themselves, pictures and the Trainer when they are used, packages of the scripts never."""
    torch.save(SLSTrainingArguments(output_dir=str(tmp_path)), tmp_path / "training_args.bin")
    code = f"""
import json, sys
sys.modules.update(dict.fromkeys(("datasets", "evaluate", "sklearn", "scipy", "pandas")))
import torch
args = torch.load({str(tmp_path / "training_args.bin")!r}, weights_only=False)
print(json.dumps([args.optim == "adam_sls", type(args).__name__]))

import hf_sls
late = "matplotlib", "tabulate", "transformers.trainer", "hf_sls.trainer"
print(json.dumps([name for name in late if name in sys.modules]))

import hf_sls.__main__
print(json.dumps([hf_sls.SLSTrainer.__name__, "hf_sls.trainer" in sys.modules]))
"""
    assert in_fresh_process(code) == [[True, "SLSTrainingArguments"], [], ["SLSTrainer", True]]


def test_the_public_names_are_there() -> None:
    assert sorted(hf_sls.__all__) == sorted(set(hf_sls.__all__))
    assert all(hasattr(hf_sls, name) for name in hf_sls.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = hf_sls.Nothing


def test_the_minimum_version_is_the_one_we_test() -> None:
    assert tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 57)
