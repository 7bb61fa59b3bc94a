"""The named optimizers: each one composition of the rules, with the defaults it was published with."""

from __future__ import annotations

from math import inf

from .backtracking import Backtracking
from .cadence import Budget, EveryStep
from .criterion import Armijo
from .direction import Adam, Gradient, SearchDirection
from .initial_step import LastStep
from .optimizer import LineSearchOptimizer, Params


class SGDSLS(LineSearchOptimizer):
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
        max_trials: the most step sizes tried in one search.
        interpolate: shrink a rejected step by interpolation, at least by `shrink`.
        lower_bound: the least value the loss can take, 0 for cross-entropy; steps that no such loss can pass are not
            tried.
        search_rate: trials that a step may cost on average (`Budget`); `inf` searches on every step.
        search_credit: trials allowed beyond `search_rate`, for the first searches.
        weight_decay: decoupled weight decay, times the step size taken.
    """

    def __init__(
        self,
        params: Params,
        init_step_size: float = 0.1,
        c: float = 0.1,
        shrink: float = 0.9,
        growth: float = 2 ** (1 / 500),
        max_trials: int = 100,
        interpolate: bool = False,
        lower_bound: float = -inf,
        search_rate: float = inf,
        search_credit: float = 10.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            direction=Gradient(),
            criterion=Armijo(c),
            initial_step=LastStep(init_step_size, growth),
            backtracking=Backtracking(shrink, max_trials, interpolate, lower_bound=lower_bound),
            cadence=EveryStep() if search_rate == inf else Budget(search_credit, search_rate),
            weight_decay=weight_decay,
        )


class AdamSLS(LineSearchOptimizer):
    """Adam with the Armijo line search (ADAMSLS, Kenneweg et al. 2023, arXiv 2403.18506).

    Each step is Adam's, `w - eta * m^ / (sqrt(v^) + eps)`, with the largest tried `eta` that satisfies the Armijo
    condition along the searched direction `p`, `f(w + eta p) <= f(w) - c * eta * <g, -p>`.

    Args:
        params: parameters, named parameters or parameter groups.
        init_step_size: where the first search starts (eta_0), positive.
        c: sufficient decrease, in (0, 1); larger takes smaller steps.
        betas: decay rates of Adam's moments, each in [0, 1).
        eps: added to Adam's denominator.
        search_direction: `"gradient"` searches along `-g / (sqrt(v^) + eps)` and applies the step size found along
            Adam's direction (arXiv 2403.18506); `"momentum"` searches along Adam's direction itself (arXiv 2403.18519).
        shrink: factor of a rejected step (beta), in (0, 1).
        growth: factor from one search to the next (gamma^(1/n)), at least 1.
        max_trials: the most step sizes tried in one search.
        interpolate: shrink a rejected step by interpolation, at least by `shrink`.
        lower_bound: the least value the loss can take, 0 for cross-entropy; steps that no such loss can pass are not
            tried.
        search_rate: trials that a step may cost on average (`Budget`); `inf` searches on every step.
        search_credit: trials allowed beyond `search_rate`, for the first searches.
        weight_decay: decoupled weight decay, times the step size taken.
    """

    def __init__(
        self,
        params: Params,
        init_step_size: float = 0.1,
        c: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        search_direction: SearchDirection = "gradient",
        shrink: float = 0.9,
        growth: float = 2 ** (1 / 500),
        max_trials: int = 100,
        interpolate: bool = False,
        lower_bound: float = -inf,
        search_rate: float = inf,
        search_credit: float = 10.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            direction=Adam(betas, eps, search_direction),
            criterion=Armijo(c),
            initial_step=LastStep(init_step_size, growth),
            backtracking=Backtracking(shrink, max_trials, interpolate, lower_bound=lower_bound),
            cadence=EveryStep() if search_rate == inf else Budget(search_credit, search_rate),
            weight_decay=weight_decay,
        )
