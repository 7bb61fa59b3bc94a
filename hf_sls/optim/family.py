"""The named optimizers: each one composition of the rules, with the defaults it was published with."""

from __future__ import annotations

from math import inf

from torch import nn
from typing_extensions import TypedDict, Unpack

from ._validation import check_choice, check_range
from .backtracking import Backtracking
from .cadence import Adaptive, Budget, Cadence, EveryStep
from .criterion import Armijo, Criterion, NonMonotone, Smoothed
from .direction import Adagrad, Adam, Direction, Gradient, SearchDirection
from .initial_step import InitialStep, LastStep, Polyak, Wolfe
from .layer_groups import layer_groups
from .optimizer import LineSearchOptimizer, Params
from .partition import Cyclic, Partition
from .watch import Watch

_DOUBLED_IN_500 = 2 ** (1 / 500)
_ROUNDING_OF_BF16 = 2.0**-8


class SearchSettings(TypedDict, total=False):
    """What every named optimizer takes beside its own arguments; the defaults are what the papers do.

    Attributes:
        max_trials: the most step sizes tried in one search; 100.
        interpolate: whether to shrink a rejected step by interpolation (`Backtracking`); False.
        lower_bound: the least value the loss can take, 0 for cross-entropy; steps that no such loss can pass are not
            tried; `-inf`.
        search_rate: trials that a step may cost on average (`Budget`); `inf`, the cadence of the paper.
        search_credit: trials allowed beyond `search_rate`, for the first searches; 10.
        search_fraction: share of the rows of a batch that `SLSTrainer` evaluates in trials, in (0, 1]; 1. Below 1 a
            search costs one more evaluation of that share, of the loss before the step. The slope is still that of
            the whole batch: with few rows the two do not fit, and steps that are far too short are all that passes.
        weight_decay: decoupled weight decay, times the step size taken; 0.
    """

    max_trials: int
    interpolate: bool
    lower_bound: float
    search_rate: float
    search_credit: float
    search_fraction: float
    weight_decay: float


class _Named(LineSearchOptimizer):
    """A composition whose rules are set by plain numbers, as `optim_args` has them."""

    def __init__(
        self,
        params: Params,
        direction: Direction,
        criterion: Criterion,
        initial_step: InitialStep,
        shrink: float,
        cadence: Cadence | None = None,
        partition: Partition | None = None,
        watch: Watch | None = None,
        *,
        max_trials: int = 100,
        interpolate: bool = False,
        lower_bound: float = -inf,
        search_rate: float = inf,
        search_credit: float = 10.0,
        search_fraction: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        check_range("search_fraction", search_fraction, low=0.0, high=1.0, include_low=False)
        check_range("search_credit", search_credit, low=0.0)
        if search_rate != inf:
            check_range("search_rate", search_rate, low=0.0, include_low=False)
            cadence = Budget(search_credit, search_rate)
        self.search_fraction = search_fraction
        super().__init__(
            params,
            direction=direction,
            criterion=criterion,
            initial_step=initial_step,
            backtracking=Backtracking(shrink, max_trials, interpolate, lower_bound=lower_bound),
            cadence=cadence,
            partition=partition,
            watch=watch,
            weight_decay=weight_decay,
        )


class _AdamWithWolfe(_Named):
    """Adam's direction, and on request a step size that is bracketed by both conditions of Wolfe and then held."""

    def __init__(
        self,
        params: Params,
        direction: Adam,
        init_step_size: float,
        c: float,
        smoothing: float,
        shrink: float,
        growth: float,
        wolfe: bool,
        cadence: Cadence | None = None,
        **search: Unpack[SearchSettings],
    ) -> None:
        check_choice("wolfe", wolfe, (False, True))
        initial_step: InitialStep = LastStep(init_step_size, growth)
        criterion: Criterion = Smoothed(c, smoothing) if smoothing else Armijo(c)
        watch = None
        if wolfe:
            initial_step, watch = Wolfe(init_step_size, growth), Watch()
            criterion, cadence = Armijo(c, _ROUNDING_OF_BF16), EveryStep()
            if search.get("search_rate", inf) != inf:
                check_range("search_rate", search["search_rate"], low=0.0, include_low=False)
            search["search_rate"] = inf
        super().__init__(params, direction, criterion, initial_step, shrink, cadence, watch=watch, **search)


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

    def __init__(
        self,
        params: Params,
        init_step_size: float = 0.1,
        c: float = 0.1,
        shrink: float = 0.9,
        growth: float = _DOUBLED_IN_500,
        **search: Unpack[SearchSettings],
    ) -> None:
        super().__init__(params, Gradient(), Armijo(c), LastStep(init_step_size, growth), shrink, **search)


class AdamSLS(_AdamWithWolfe):
    """Adam with the Armijo line search (ADAMSLS, Kenneweg et al. 2023, arXiv 2403.18506).

    Each step is Adam's, `w - eta * m^ / (sqrt(v^) + eps)`, with the largest tried `eta` that satisfies the Armijo
    condition along the searched direction `p`, `f(w + eta p) <= f(w) - c * eta * <g, -p>`.

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive; with `wolfe`, at most.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        betas: decay rates of Adam's moments, each in [0, 1).
        eps: added to Adam's denominator.
        search_direction: `"gradient"` searches along `-g / (sqrt(v^) + eps)` and applies the step size found along
            Adam's direction (arXiv 2403.18506); `"momentum"` searches along Adam's direction itself (arXiv 2403.18519).
        smoothing: share of the past in the criterion (`Smoothed`), in [0, 1); 0 is Armijo.
        shrink: factor of a rejected step (beta), in (0, 1).
        growth: factor from one search to the next (gamma^(1/n)), at least 1.
        wolfe: whether to find the step size at the start of the run, from what the next batch says of each step
            (`Wolfe`), and to hold it then; a `Watch` shortens it where the run gets worse. `growth` is then
            that of `Wolfe`, above 1, the criterion is Armijo's with the rounding of bfloat16 as its tolerance, and
            `search_rate` is not used.
        search: `SearchSettings`.
    """

    _amsgrad = False

    def __init__(
        self,
        params: Params,
        init_step_size: float = 0.1,
        c: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        search_direction: SearchDirection = "gradient",
        smoothing: float = 0.0,
        shrink: float = 0.9,
        growth: float = _DOUBLED_IN_500,
        wolfe: bool = False,
        **search: Unpack[SearchSettings],
    ) -> None:
        direction = Adam(betas, eps, search_direction, self._amsgrad)
        super().__init__(params, direction, init_step_size, c, smoothing, shrink, growth, wolfe, **search)


class AMSGradSLS(AdamSLS):
    """AMSGrad with the Armijo line search (Vaswani et al. 2020, arXiv 2006.06835).

    Arguments and step are those of `AdamSLS`, with the largest `v^` so far in place of the present one.
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

    def __init__(
        self,
        params: Params,
        init_step_size: float = 0.1,
        c: float = 0.1,
        eps: float = 1e-10,
        shrink: float = 0.9,
        growth: float = _DOUBLED_IN_500,
        **search: Unpack[SearchSettings],
    ) -> None:
        super().__init__(params, Adagrad(eps), Armijo(c), LastStep(init_step_size, growth), shrink, **search)


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
        blocks: number of layers that the blocks of a model make; with embeddings and head the paper's 10.
        joint_steps: number of steps, from the start, that search one step size for all layers.
        shrink: factor of a rejected step (beta), in (0, 1).
        growth: factor from one step to the next (gamma^(1/n)), at least 1.
        search: `SearchSettings`.
    """

    def __init__(
        self,
        params: Params | nn.Module,
        init_step_size: float = 0.1,
        c: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        search_direction: SearchDirection = "gradient",
        blocks: int = 8,
        joint_steps: int = 6,
        shrink: float = 0.9,
        growth: float = _DOUBLED_IN_500,
        **search: Unpack[SearchSettings],
    ) -> None:
        super().__init__(
            layer_groups(params, blocks, search.get("weight_decay", 0.0)) if isinstance(params, nn.Module) else params,
            Adam(betas, eps, search_direction),
            Armijo(c),
            LastStep(init_step_size, growth),
            shrink,
            partition=Cyclic(joint_steps),
            **search,
        )


class SaLSa(_AdamWithWolfe):
    """Adam with the smoothed line search, as often as needed (SaLSa, Kenneweg et al. 2024, arXiv 2407.20650).

    A step is accepted when the decrease averaged over the batches is sufficient (`Smoothed`), and searched only as
    often as the step size moves (`Adaptive`). Unlike in the authors' code, a searched step is taken along Adam's
    direction like every other.

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive; with `wolfe`, at most.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        betas: decay rates of Adam's moments, each in [0, 1).
        eps: added to Adam's denominator.
        search_direction: as in `AdamSLS`.
        smoothing: share of the past in the criterion (B), in [0, 1).
        shrink: factor of a rejected step, in (0, 1).
        growth: factor from one search to the next, at least 1.
        wolfe: as in `AdamSLS`; `smoothing`, `warmup` and `max_interval` are not used then.
        warmup: number of searches, from the start, that take place on every step.
        max_interval: the most steps from one search to the next.
        search: `SearchSettings`.
    """

    def __init__(
        self,
        params: Params,
        init_step_size: float = 1.0,
        c: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        search_direction: SearchDirection = "gradient",
        smoothing: float = 0.9,
        shrink: float = 0.8,
        growth: float = 1.1,
        wolfe: bool = False,
        warmup: int = 10,
        max_interval: int = 10,
        **search: Unpack[SearchSettings],
    ) -> None:
        super().__init__(
            params,
            Adam(betas, eps, search_direction),
            init_step_size,
            c,
            smoothing,
            shrink,
            growth,
            wolfe,
            Adaptive(warmup, max_interval),
            **search,
        )


class SGDSaLSa(_Named):
    """Gradient descent with the smoothed line search, as often as needed (SaLSa, arXiv 2407.20650).

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        smoothing: share of the past in the criterion (B), in [0, 1).
        shrink: factor of a rejected step, in (0, 1).
        growth: factor from one search to the next, at least 1.
        warmup: number of searches, from the start, that take place on every step.
        max_interval: the most steps from one search to the next.
        search: `SearchSettings`.
    """

    def __init__(
        self,
        params: Params,
        init_step_size: float = 1.0,
        c: float = 0.5,
        smoothing: float = 0.9,
        shrink: float = 0.8,
        growth: float = 1.1,
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
            Adaptive(warmup, max_interval),
            **search,
        )


class PoNoS(_Named):
    """Gradient descent, non-monotone line search from Polyak's step (PoNoS, Galli et al. 2023, arXiv 2306.12747).

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: the largest step to start from (eta_max), at least 1e-6.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        polyak_share: c_p of Polyak's step, positive.
        xi: weight of the past losses (`NonMonotone`), in [0, 1].
        shrink: factor of a rejected step (delta), in (0, 1).
        search: `SearchSettings`.
    """

    def __init__(
        self,
        params: Params,
        init_step_size: float = 10.0,
        c: float = 0.5,
        polyak_share: float = 0.1,
        xi: float = 1.0,
        shrink: float = 0.5,
        **search: Unpack[SearchSettings],
    ) -> None:
        check_range("polyak_share", polyak_share, low=0.0, include_low=False)
        check_range("init_step_size", init_step_size, low=1e-6)
        initial_step = Polyak(polyak_share, shrink, largest=init_step_size)
        super().__init__(params, Gradient(), NonMonotone(c, xi), initial_step, shrink, **search)
