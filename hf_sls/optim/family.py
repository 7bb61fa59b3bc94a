"""The named optimizers: each one composition of the rules, with our defaults; `presets` has the published ones."""

from __future__ import annotations

import inspect
from math import inf
from typing import Any, ClassVar, get_args

from torch import nn
from typing_extensions import TypedDict, Unpack

from ._validation import LARGEST, SMALLEST, check_choice, check_integer, check_range
from .backtracking import Backtracking
from .cadence import Adaptive, Always, Budget, Cadence
from .criterion import Armijo, Criterion, NonMonotone, Smoothed
from .direction import Adagrad, Adam, Direction, Gradient, SearchDirection
from .initial_step import InitialStep, LastStep, LookBack, Polyak
from .layer_groups import layer_groups
from .optimizer import LineSearchOptimizer, Params
from .partition import Cyclic, Partition
from .watch import Watch

_ROUNDING_OF_BF16 = 2.0**-8


class SearchSettings(TypedDict, total=False):
    """What every named optimizer takes beside its own arguments.

    Attributes:
        max_trials: the most step sizes tried in one search; 20.
        interpolate: whether to shrink a rejected step by interpolation (`Backtracking`); True.
        lower_bound: the least value the loss can take; a search tries no step that only a lower loss could pass. 0, as
            for cross-entropy; `-inf` for `AdamSLS` and `AMSGradSLS`.
        search_rate: trials that a step may cost on average (`Budget`). `inf` leaves the cadence to the optimizer, and
            makes `AdamSLS` search every step; 0.09 for `SGDSLS`, `AdagradSLS` and `SGDSaLSa`.
        search_credit: trials allowed beyond `search_rate`, for the first searches; 10.
        weight_decay: decoupled weight decay, times the step size taken; 0.
    """

    max_trials: int
    interpolate: bool
    lower_bound: float
    search_rate: float
    search_credit: float
    weight_decay: float


_SEARCH = SearchSettings(
    max_trials=20, interpolate=True, lower_bound=0.0, search_rate=inf, search_credit=10.0, weight_decay=0.0
)


def _adam(betas: tuple[float, float], eps: float, search_direction: SearchDirection, amsgrad: bool = False) -> Adam:
    check_choice("search_direction", search_direction, get_args(SearchDirection))
    return Adam(betas, eps, search_direction, amsgrad)


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and value == inf


class _Named(LineSearchOptimizer):
    """A composition whose rules are set by plain numbers, as in `optim_args`."""

    search_defaults: ClassVar[SearchSettings] = {}
    """Where the defaults differ from those of `SearchSettings`."""

    def __init__(
        self,
        params: Params,
        direction: Direction,
        criterion: Criterion,
        initial_step: InitialStep,
        shrink: float,
        search: SearchSettings,
        cadence: Cadence | None = None,
        partition: Partition | None = None,
        watch: Watch | None = None,
    ) -> None:
        for name in search.keys() - _SEARCH.keys():
            own = [own for own in inspect.signature(type(self)).parameters if own not in ("params", "search")]
            is_rate = name in ("lr", "learning_rate")
            hint = " The step size is found; init_step_size is where the search starts." if is_rate else ""
            raise TypeError(
                f"{name}={search[name]!r} is not an argument of {type(self).__name__}, which takes "  # type: ignore[literal-required]
                f"{', '.join([*own, *_SEARCH])}.{hint}"
            )
        chosen: SearchSettings = {**_SEARCH, **self.search_defaults, **search}
        check_range("search_credit", chosen["search_credit"], low=0.0, high=LARGEST)
        check_range("weight_decay", chosen["weight_decay"], low=0.0, high=LARGEST)
        check_range("shrink", shrink, low=0.0, high=1.0, include_low=False, include_high=False)
        if not _is_infinite(chosen["search_rate"]):
            check_range("search_rate", chosen["search_rate"], low=SMALLEST, high=LARGEST)
            cadence = Budget(chosen["search_credit"], chosen["search_rate"])
        super().__init__(
            params,
            direction=direction,
            criterion=criterion,
            initial_step=initial_step,
            backtracking=Backtracking(
                shrink,
                chosen["max_trials"],
                chosen["interpolate"],
                max_shrink=min(Backtracking.max_shrink, shrink),
                lower_bound=chosen["lower_bound"],
            ),
            cadence=cadence,
            partition=partition,
            watch=watch,
            weight_decay=chosen["weight_decay"],
        )


class SGDSLS(_Named):
    """Gradient descent with the Armijo line search (SLS, Vaswani et al. 2019, arXiv 1905.09997).

    Each step is `w - eta * g` with the largest tried `eta` that satisfies `f(w - eta g) <= f(w) - c * eta * ||g||^2`.

        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = SGDSLS(model.parameters())
        >>> inputs, targets = torch.ones(4, 2), torch.zeros(4, 1)
        >>> loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(inputs), targets))
        >>> optimizer.last_report.outcome
        'accepted'

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        shrink: factor of a rejected step (beta), in (0, 1).
        growth: factor from one search to the next (gamma^(1/n)), at least 1.
        search: `SearchSettings`.
    """

    search_defaults = {"search_rate": 0.09}

    def __init__(
        self,
        params: Params,
        *,
        init_step_size: float = 1.0,
        c: float = 0.1,
        shrink: float = 0.5,
        growth: float = 1.2,
        **search: Unpack[SearchSettings],
    ) -> None:
        super().__init__(params, Gradient(), Armijo(c), LastStep(init_step_size, growth), shrink, search)


class AdamSLS(_Named):
    """Adam with a step size that the first steps find and the others keep (`LookBack`).

    Each step is Adam's, `w - eta * m^ / (sqrt(v^) + eps)`. The first search finds the largest tried eta that satisfies
    the Armijo condition along the searched direction `p`, `f(w + eta p) <= f(w) - c * eta * <g, -p>`. Then each batch
    looks back at the last step, and eta goes towards the minimum of the parabola that they see, up to `init_step_size`.

    `look_back=False` searches every step of the run, each from a little above the last step, as ADAMSLS does (Kenneweg
    et al. 2023, arXiv 2403.18506); `create_optimizer("adam_sls", params, preset="published")` has all of its values.

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive. With `look_back` it is the largest step, and
            the first step is 2 % of the geometric mean of it and the one found.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        betas: decay rates of Adam's moments, each in [0, 1). The first is 0.8, not Adam's 0.9, whatever `look_back`: a
            shorter memory lags less behind in runs of a few hundred steps. Batches of a few rows need the longer one.
        eps: added to Adam's denominator.
        search_direction: `"momentum"` searches along Adam's direction itself (arXiv 2403.18519); `"gradient"` along
            `-g / (sqrt(v^) + eps)`, and applies the step size found along Adam's direction (arXiv 2403.18506).
        smoothing: weight of the past in the criterion (`Smoothed`), in [0, 1); 0 is Armijo. Not used with `look_back`.
        shrink: factor of a rejected step (beta), in (0, 1).
        growth: with `look_back`, the largest factor from one step to the next, up or down, above 1; else that from one
            search to the next (gamma^(1/n)), at least 1.
        look_back: whether to find the step size at the start of the run and keep it. The criterion is then Armijo's
            with the rounding of bfloat16 as its tolerance. `search_rate=inf` searches the steps that follow too; any
            other rate has no effect.
        watch: whether a `Watch` shortens the steps of `look_back` if the loss rises again. Turn it off for a loss that
            rises by design, with a weight in it that grows for example.
        search: `SearchSettings`.
    """

    _amsgrad = False
    search_defaults = {"lower_bound": -inf}

    def __init__(
        self,
        params: Params,
        *,
        init_step_size: float = 1e-2,
        c: float = 0.1,
        betas: tuple[float, float] = (0.8, 0.999),
        eps: float = 1e-8,
        search_direction: SearchDirection = "momentum",
        smoothing: float = 0.0,
        shrink: float = 0.5,
        growth: float = 2.0,
        look_back: bool = True,
        watch: bool = True,
        **search: Unpack[SearchSettings],
    ) -> None:
        for name, value in (("look_back", look_back), ("watch", watch)):
            check_choice(name, value, (False, True))
        direction = _adam(betas, eps, search_direction, self._amsgrad)
        initial_step: InitialStep = LastStep(init_step_size, growth)
        check_range("smoothing", smoothing, low=0.0, high=1.0, include_high=False)
        criterion: Criterion = Smoothed(c, smoothing) if smoothing else Armijo(c)
        cadence: Cadence | None = None
        if look_back:
            if _is_infinite(search.get("search_rate")):
                cadence = Always()
            elif "search_rate" in search:
                check_range("search_rate", search["search_rate"], low=SMALLEST, high=LARGEST)
            search["search_rate"] = inf
            initial_step = LookBack(init_step_size, growth)
            criterion = Armijo(c, _ROUNDING_OF_BF16)
        watching = Watch() if look_back and watch else None
        super().__init__(params, direction, criterion, initial_step, shrink, search, cadence, watch=watching)


class AMSGradSLS(AdamSLS):
    """AMSGrad with the line search of `AdamSLS`; with `look_back=False` that of Vaswani et al. 2020, arXiv 2006.06835.

    It takes the arguments and steps of `AdamSLS`, with the largest `v^` so far in place of the present one.
    """

    _amsgrad = True


class AdagradSLS(_Named):
    """Adagrad with the Armijo line search (Vaswani et al. 2020, arXiv 2006.06835).

    Each step is `w - eta * g / (sqrt(sum g^2) + eps)`, searched along itself.

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        eps: added to Adagrad's denominator.
        shrink: factor of a rejected step (beta), in (0, 1).
        growth: factor from one search to the next (gamma^(1/n)), at least 1.
        search: `SearchSettings`.
    """

    search_defaults = {"search_rate": 0.09}

    def __init__(
        self,
        params: Params,
        *,
        init_step_size: float = 0.1,
        c: float = 0.1,
        eps: float = 1e-10,
        shrink: float = 0.5,
        growth: float = 1.2,
        **search: Unpack[SearchSettings],
    ) -> None:
        super().__init__(params, Adagrad(eps), Armijo(c), LastStep(init_step_size, growth), shrink, search)


class PLASLS(_Named):
    """Adam with a line search for each layer in turn (PLASLS, Kenneweg et al. 2023, arXiv 2403.18506).

    The first `joint_steps` steps search one step size for all layers. After that each step searches that of one layer,
    with the slope of its gradient alone and trials that move it alone; the others then take their own last step, grown
    by the same rule.

        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> optimizer = PLASLS(model, blocks=2)
        >>> [group["layer"] for group in optimizer.param_groups]
        [0, 1, 2, 3]

    Args:
        params: a model, grouped by `layer_groups`; or parameter groups, each a layer of its own unless its key
            `"layer"` says otherwise.
        init_step_size: where the first search starts (eta_0), positive.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        betas: decay rates of Adam's moments, each in [0, 1).
        eps: added to Adam's denominator.
        search_direction: as in `AdamSLS`.
        blocks: number of layers that the blocks of a model make; with embeddings and head the paper's 10. Not used
            with parameters or groups of them.
        joint_steps: number of steps, from the start, that search one step size for all layers.
        shrink: factor of a rejected step (beta), in (0, 1).
        growth: factor from one step to the next (gamma^(1/n)), at least 1.
        search: `SearchSettings`.
    """

    def __init__(
        self,
        params: Params | nn.Module,
        *,
        init_step_size: float = 0.1,
        c: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        search_direction: SearchDirection = "momentum",
        blocks: int = 8,
        joint_steps: int = 6,
        shrink: float = 0.5,
        growth: float = 2 ** (1 / 500),
        **search: Unpack[SearchSettings],
    ) -> None:
        check_integer("blocks", blocks, low=1)
        super().__init__(
            layer_groups(params, blocks, search.get("weight_decay", 0.0)) if isinstance(params, nn.Module) else params,
            _adam(betas, eps, search_direction),
            Armijo(c),
            LastStep(init_step_size, growth),
            shrink,
            search,
            partition=Cyclic(joint_steps),
        )


class SaLSa(_Named):
    """Adam with the smoothed line search, as often as needed (SaLSa, Kenneweg et al. 2024, arXiv 2407.20650).

    A step is accepted when the decrease averaged over the batches is sufficient (`Smoothed`), and searched only as
    often as the step size moves (`Adaptive`). Unlike in the authors' code, a searched step is taken along Adam's
    direction like every other.

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        betas: decay rates of Adam's moments, each in [0, 1).
        eps: added to Adam's denominator.
        search_direction: as in `AdamSLS`.
        smoothing: weight of the past in the criterion (B), in [0, 1).
        shrink: factor of a rejected step, in (0, 1).
        growth: factor from one search to the next, at least 1.
        warmup: number of searches, from the start, that take place on every step.
        max_interval: the most steps from one search to the next.
        search: `SearchSettings`.
    """

    def __init__(
        self,
        params: Params,
        *,
        init_step_size: float = 1.0,
        c: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        search_direction: SearchDirection = "momentum",
        smoothing: float = 0.9,
        shrink: float = 0.5,
        growth: float = 1.1,
        warmup: int = 10,
        max_interval: int = 10,
        **search: Unpack[SearchSettings],
    ) -> None:
        super().__init__(
            params,
            _adam(betas, eps, search_direction),
            Smoothed(c, smoothing),
            LastStep(init_step_size, growth),
            shrink,
            search,
            Adaptive(warmup, max_interval),
        )


class SGDSaLSa(_Named):
    """Gradient descent with the smoothed line search, within a budget of trials (SaLSa, arXiv 2407.20650).

    With `search_rate=inf` it searches as often as the step size moves (`Adaptive`), as in the paper.

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        smoothing: weight of the past in the criterion (B), in [0, 1).
        shrink: factor of a rejected step, in (0, 1).
        growth: factor from one search to the next, at least 1.
        warmup: number of searches, from the start, that take place on every step, with `search_rate=inf`.
        max_interval: the most steps from one search to the next, with `search_rate=inf`.
        search: `SearchSettings`.
    """

    search_defaults = {"search_rate": 0.09}

    def __init__(
        self,
        params: Params,
        *,
        init_step_size: float = 1.0,
        c: float = 0.5,
        smoothing: float = 0.9,
        shrink: float = 0.5,
        growth: float = 1.2,
        warmup: int = 10,
        max_interval: int = 10,
        **search: Unpack[SearchSettings],
    ) -> None:
        super().__init__(
            params,
            Gradient(),
            Smoothed(c, smoothing),
            LastStep(init_step_size, growth),
            shrink,
            search,
            Adaptive(warmup, max_interval),
        )


class PoNoS(_Named):
    """Gradient descent, non-monotone line search from Polyak's step (PoNoS, Galli et al. 2023, arXiv 2306.12747).

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: the largest step to start from (eta_max), at least 1e-6.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        c_p: divides Polyak's step, positive.
        xi: weight of the past losses (`NonMonotone`), in [0, 1].
        shrink: factor of a rejected step (delta), in (0, 1).
        search: `SearchSettings`.
    """

    def __init__(
        self,
        params: Params,
        *,
        init_step_size: float = 10.0,
        c: float = 0.5,
        c_p: float = 0.1,
        xi: float = 1.0,
        shrink: float = 0.5,
        **search: Unpack[SearchSettings],
    ) -> None:
        check_range("c_p", c_p, low=SMALLEST, high=LARGEST)
        check_range("init_step_size", init_step_size, low=1e-6, high=LARGEST)
        check_range("shrink", shrink, low=0.0, high=1.0, include_low=False, include_high=False)
        initial_step = Polyak(c_p, shrink, largest=init_step_size)
        super().__init__(params, Gradient(), NonMonotone(c, xi), initial_step, shrink, search)
