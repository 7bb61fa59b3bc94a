"""Every setting of every optimizer works for three steps, or is an error that names the argument and the value."""

from __future__ import annotations

import inspect
import math
import re
import string
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_sls import SLSTrainer, SLSTrainingArguments
from hf_sls.optim import OPTIMIZERS, SearchSettings, create_optimizer

from ..problems import Network

NAMES = sorted(OPTIMIZERS)

magnitudes = st.builds(
    lambda sign, digits, power: sign * digits * 10.0**power,
    st.sampled_from([1, 1, 1, 1, -1]),
    st.floats(1.0, 9.99),
    st.integers(-320, 307),
)
fractions = st.floats(0.0, 1.0)
strange = st.sampled_from(
    [
        *(None, True, False, "", "0.5", "momentum", "gradient", b"1", (), (0.9, 0.999), [0.9, 0.99], {}, 1 + 2j),
        *(math.nan, math.inf, -math.inf, 0, -0.0, 1, -1, 2, 20, 10**30, 1e-320),
        *(np.float32(0.5), np.float64(0.25), np.int64(3), np.nan, np.zeros(2), Decimal("0.5"), (0.5).as_integer_ratio),
        *(torch.tensor(0.5), torch.zeros(2), (0.5, math.nan), (0.9,), (True, 0.5), ("a", "b"), object),
    ]
)
values = st.one_of(magnitudes, fractions, strange, st.integers(-3, 200))


def settings_of(name: str) -> list[str]:
    """Return what an optimizer may be given beside parameters."""
    own = inspect.signature(OPTIMIZERS[name]).parameters
    return [each for each in own if each not in ("params", "search")] + list(SearchSettings.__annotations__)


some_settings = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(
        st.just(name), st.dictionaries(st.sampled_from(settings_of(name)), values, min_size=1, max_size=3)
    )
)


def works_for_three_steps(make: Any) -> None:
    """Train a small network; the parameters and the step size stay finite."""
    model = Network(dtype=torch.float32)
    optimizer = make(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for closure in model.closures(3):
            optimizer.step(closure)
            report = optimizer.last_report
            assert math.isfinite(report.step_size), report
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert optimizer.describe()


@pytest.mark.filterwarnings("ignore:.*has no effect on")
@given(chosen=some_settings)
def test_a_setting_works_or_is_refused_by_name(chosen: tuple[str, dict[str, Any]]) -> None:
    name, settings = chosen
    try:
        create_optimizer(name, Network().parameters(), **settings)
    except (TypeError, ValueError) as error:
        named = [f"{key}={value!r} is not allowed" for key, value in settings.items()]
        assert any(each in str(error) for each in (*named, "betas[0]=", "betas[1]=")), error
        return
    works_for_three_steps(lambda model: create_optimizer(name, model.parameters(), **settings))


@given(
    key=st.sampled_from(["lr", "weight_decay"]),
    value=st.one_of(st.floats(-1.0, 1e6), st.sampled_from([0.0, 1, math.nan, math.inf, -math.inf])),
)
def test_a_setting_of_a_group_works_or_is_refused_by_name(key: str, value: float) -> None:
    try:
        create_optimizer("adam_sls", [{"params": Network().parameters(), key: value}])
    except ValueError as error:
        assert f"{key}={float(value)!r} is not allowed" in str(error) or f"{key}={value!r} is not allowed" in str(error)
        return
    works_for_three_steps(
        lambda model: create_optimizer("adam_sls", [{"params": list(model.parameters()), key: value}])
    )


@pytest.mark.parametrize(
    ("key", "value"), [("lr", None), ("lr", "0.5"), ("lr", True), ("lr", 1e189), ("weight_decay", 1e189)]
)
def test_a_bad_setting_of_a_group_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(f"{key}={value!r} is not allowed")):
        create_optimizer("adam_sls", [{"params": Network().parameters(), key: value}])


@given(name=st.one_of(st.sampled_from(NAMES), strange), preset=st.one_of(strange, st.text(max_size=5)))
def test_a_name_or_a_preset_works_or_is_refused_by_name(name: Any, preset: Any) -> None:
    try:
        create_optimizer(name, Network().parameters(), preset=preset)
    except (TypeError, ValueError) as error:
        assert f"preset={preset!r}" in str(error) or f"name={name!r}" in str(error), error


written = st.one_of(
    magnitudes.map(repr),
    fractions.map(repr),
    st.integers(-3, 200).map(str),
    st.sampled_from(
        ["nan", "inf", "-inf", "", "1e", "0x10", "1_0", "True", "false", "momentum", "gradient", "published"]
    ),
    st.text(string.printable, max_size=4),
)
assignments = st.tuples(
    st.one_of(st.sampled_from(sorted({key for name in NAMES for key in settings_of(name)} | {"preset"})), st.text()),
    st.sampled_from(["=", "=", "=", "=", " = ", "", "=="]),
    written,
).map("".join)
texts = st.one_of(
    st.lists(assignments, max_size=3).map(",".join),
    st.text(string.printable, max_size=12),
    strange.filter(lambda value: not isinstance(value, str)),
)


@pytest.mark.filterwarnings("ignore:.*has no effect on")
@given(name=st.sampled_from(NAMES), text=texts)
def test_optim_args_work_or_are_refused_by_name(name: str, text: Any, tmp_path_factory: Any) -> None:
    try:
        args = SLSTrainingArguments(
            str(Path(tmp_path_factory.getbasetemp())), optim=name, optim_args=text, use_cpu=True
        )
    except ValueError as error:
        message = str(error)
        named = f"optim_args={text!r}" in message or ("=" in message and "is not allowed" in message)
        assert named or "preset=" in message, error
        return

    def make(model: torch.nn.Module) -> torch.optim.Optimizer:
        cls, kwargs = SLSTrainer.get_optimizer_cls_and_kwargs(args)
        return cls(model.parameters(), **kwargs)

    works_for_three_steps(make)
