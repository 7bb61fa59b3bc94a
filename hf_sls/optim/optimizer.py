"""`LineSearchOptimizer`: direction, criterion, initial step, backtracking, cadence, partition and watch, composed."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ._tensors import square_sum, to_floats
from ._validation import check_range
from .backtracking import Backtracking
from .cadence import Cadence, EveryStep
from .criterion import Armijo, Criterion
from .direction import Direction
from .initial_step import InitialStep, LastStep
from .partition import Joint, Partition
from .path import Kind
from .random_state import RandomState
from .search import Batch, Move, Rules, SearchReport, search
from .sharding import local, mean_of_evaluations, mean_over_processes, shard_groups, sum_over_shards
from .state import checked_groups, new_memory
from .trials import Closure, Observer, RecordedLoss
from .watch import Watch

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
_LEAST_SHARE = 0.01
"""A base `lr` below it is taken for a learning rate."""

_NEEDS_CLOSURE = (
    "{name}.step() has no closure to evaluate the loss with. In plain PyTorch call step(closure), where closure() "
    "returns the loss of the current mini-batch; with the Hugging Face Trainer use hf_sls.SLSTrainer, or add "
    "hf_sls.LineSearchTrainerMixin to your own Trainer subclass."
)


class LineSearchOptimizer(torch.optim.Optimizer):
    r"""Step along a direction, by the largest tried step size that the loss of the same mini-batch accepts.

    With the gradient g_k of the mini-batch loss f_k at w_k, the searched direction p_k, the applied direction d_k and
    the slope `s_k = -<g_k, p_k>`, a step is::

        eta_k    = initial_step, shrunk by backtracking until f_k(w_k + eta p_k) <= a - b eta   (the criterion's line)
        w_{k+1}  = w_k + lr eta_k (d_k - weight_decay w_k)                                      (decay as in AdamW)

    Until an initial step of whole steps (`Wolfe`) has settled, `lr` is taken relative to the largest of the groups.
    Every named optimizer of the package is one composition of the rules; write your own the same way:

        >>> from hf_sls.optim import Adam, Armijo, LastStep
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = LineSearchOptimizer(
        ...     model.parameters(), direction=Adam(), criterion=Armijo(c=0.3), initial_step=LastStep(first=0.01)
        ... )
        >>> inputs, targets = torch.randn(8, 3), torch.randn(8, 1)
        >>> def closure():
        ...     return torch.nn.functional.mse_loss(model(inputs), targets)
        >>> loss = optimizer.step(closure)
        >>> bool(closure() < loss)
        True

    Args:
        params: parameters, named parameters or parameter groups, as for any torch optimizer. A group may set its own
            `weight_decay`.
        direction: what to move along.
        criterion: which steps to accept.
        initial_step: where a search starts.
        backtracking: how a rejected step shrinks.
        cadence: on which steps to search.
        partition: which groups one search moves.
        watch: notices that the run gets worse; a warning says so, and the step size is divided by four. `None`: do not
            look.
        weight_decay: decoupled weight decay, times the step size taken; at least 0.
        lr: share of the step size found that is taken, at least 0; what a learning-rate schedule multiplies, so that
            a linear one lets the steps run out. No step size by itself: the step size last taken, `lr * eta_k`, is
            `param_group["step_size"]`.

    Raises:
        ValueError: a value is out of range, a state dict belongs to another optimizer, or the initial step needs a
            direction whose update depends on the moments alone.
        TypeError: a parameter is complex.
    """

    closure: RecordedLoss | None = None
    """What the next `step()` without an argument takes, once: for a loop that is not one's own."""

    observer: Observer | None = None
    """Called with each `FinishedSearch` before its step is taken; what it evaluates leaves no trace."""

    last_search: SearchReport | None = None
    """What the last step with a search did, `None` before the first; reading it never waits for the device."""

    def __init__(
        self,
        params: Params,
        *,
        direction: Direction,
        criterion: Criterion | None = None,
        initial_step: InitialStep | None = None,
        backtracking: Backtracking | None = None,
        cadence: Cadence | None = None,
        partition: Partition | None = None,
        watch: Watch | None = None,
        weight_decay: float = 0.0,
        lr: float = 1.0,
    ) -> None:
        self.direction = direction
        self.criterion = criterion if criterion is not None else Armijo()
        self.initial_step = initial_step if initial_step is not None else LastStep()
        self.backtracking = backtracking if backtracking is not None else Backtracking()
        self.cadence = cadence if cadence is not None else EveryStep()
        self.partition = partition if partition is not None else Joint()
        if self.initial_step.needs_next_slope and not self.direction.of_moments_alone:
            raise ValueError(
                f"initial_step={self.initial_step!r} asks the next batch of the last update, which direction="
                f"{self.direction!r} has forgotten by then: a direction whose update depends on the moments alone is "
                "needed, as that of Adam."
            )
        self.watch = watch
        self._with_gradients = False
        self._unwatched: list[Tensor | float] = []
        self._report: SearchReport | None = None
        self._unread: tuple[Tensor | float, Tensor] | None = None
        self._skips: Tensor | None = None
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. It takes part in the searches; where there was a step before, the search starts anew with it."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_range("weight_decay", group["weight_decay"], low=0.0)
            check_range("lr", float(group["lr"]), low=0.0)
            if any(parameter.is_complex() for parameter in group["params"]):
                raise TypeError(f"{type(self).__name__} does not support complex parameters.")
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        others = self.param_groups[:-1]
        group["line_search"] = others[0]["line_search"] if others else self._new_memory()
        group["step_size"] = float(group["lr"]) * group["line_search"]["step_size"]

    def _new_memory(self) -> dict[str, Any]:
        return new_memory(self.rules, self.watch)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of an optimizer of the same composition; the resumed run is then the same run.

        Counts that the version which saved the state did not keep start from zero.

        Raises:
            ValueError: the state is of another optimizer; nothing has been loaded then.
        """
        groups = checked_groups(state_dict, self, self._new_memory())
        super().load_state_dict({**state_dict, "param_groups": groups})
        self._report = self.last_search = self._unread = self._skips = None
        self._unwatched = []
        self.closure = None
        for parameter, state in self.state.items():
            state.update({name: value.to(parameter.device) for name, value in state.items()})

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy consists of: state and rules, not the closure of a step under way nor an observer."""
        self._read_skips()
        self._read_losses()
        return {
            **super().__getstate__(),
            **vars(self.rules),
            "watch": self.watch,
            "_unwatched": [],
            "_with_gradients": self._with_gradients,
            "last_search": self.last_search,
            **dict.fromkeys(("_report", "_unread", "_skips", "closure")),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the moments and of the search, as any torch optimizer does."""
        self._read_skips()
        self._read_losses()
        return super().state_dict()

    @property
    def last_report(self) -> SearchReport | None:
        """What the last step did, `None` before the first. After a step without a search it waits for the device."""
        if self._report is not None and self._unread is not None:
            loss, skipped = to_floats(*self._unread)
            self._report = replace(self._report, loss=loss, outcome="non_finite" if skipped else "not_searched")
            self._unread = None
        return self._report

    def _read_skips(self) -> None:
        """Count the steps without a search that were skipped; until here the device has kept the count."""
        if self._skips is not None:
            skips, self._skips = int(self._skips), None
            self._add_to_counts(skipped_steps=skips)

    @property
    def search_due(self) -> bool:
        """Whether the next step will search, and so evaluate the closure; each does until one has found a step."""
        memories = [self.param_groups[i]["line_search"] for i in self._searched_indices()]
        return not self._has_found_a_step or any(
            self.cadence.due(memory["cadence"]) and not self.initial_step.settled(memory["initial_step"])
            for memory in memories
        )

    @property
    def counts(self) -> dict[str, float]:
        """Totals since the first step, over resumed runs too.

        `steps`, `searches`, `accepted` (searches that found a step), `trials`, `checks` (forward passes that check loss
        and gradient at first), `backtracks`, `skipped_steps` (those that moved nothing); and the sums over the accepted
        searches of `loss_decrease`, `slope` and `criterion_ratio`.
        Reading them waits for the device.
        """
        self._read_skips()
        return dict(self.param_groups[0]["line_search"]["counts"])

    @property
    def forward_passes_per_step(self) -> float:
        """Forward passes per step on average, the one with gradients included."""
        counts = self.counts
        return 1 + (counts["trials"] + counts["checks"]) / max(counts["steps"], 1)

    @property
    def rules(self) -> Rules:
        """The rules that the optimizer is composed of; without the watch, which takes no part in a search."""
        return Rules(self.direction, self.criterion, self.initial_step, self.backtracking, self.cadence, self.partition)

    def describe(self) -> str:
        """Return the composition as text, `AdamSLS(direction=..., criterion=..., ...)`."""
        return f"{type(self).__name__}({', '.join(f'{name}={rule}' for name, rule in vars(self.rules).items())})"

    def count_if_left_out(self) -> None:
        """Count the step that `closure` was for as skipped, if nobody took it: the scaler of fp16 has left it out."""
        if self.closure is not None:
            self.closure = None
            self._add_to_counts(steps=1, skipped_steps=1)
            self._report, self._unread = SearchReport("non_finite", self.param_groups[0]["step_size"]), None

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure | None = None, loss: Tensor | float | None = None
    ) -> Tensor | float | None:
        """Take one step and return the loss before it.

        `step(closure)` clears the gradients, evaluates the closure once with gradients and runs backward itself; the
        trials repeat the random state of that evaluation, so that dropout masks are the same. Where `torch.distributed`
        runs several processes they are taken for replicas of one model: the loss is averaged over them, and each has
        to make the step.

        `step(closure)` with a `hf_sls.LossClosure` is for after the caller's own backward, and so is `step(closure,
        loss=loss)`, which makes no collective call itself. The closure then has to restore the random state
        (`RandomState`) of the evaluation that gave `loss`, to put back the buffers of the model, and to average over
        replicas; `hf_sls.LossClosure` does all of that.

        Either way the random stream after the step is what it would be without the search. After a search without an
        accepted trial, or an exception in the closure, the parameters are as before: to the bit where they are in half
        precision, or the direction is the gradient, or the step was above 1e-3; else to the rounding of moving them by
        that step and back, as no copy of them is made.

        Args:
            closure: returns the loss of the current mini-batch, a scalar, and does not call backward. Trials call it
                under `torch.no_grad()`.
            loss: the loss at the current parameters, when the gradients are already in `.grad`.

        Raises:
            RuntimeError: there is no closure, neither as argument nor as attribute, or a gradient is sparse.
        """
        closure, self.closure = closure if closure is not None else self.closure, None
        if closure is None:
            if all(float(group["lr"]) == 0 for group in self.param_groups):
                self._move(list(range(len(self.param_groups))), self._shares())
                return None
            raise RuntimeError(_NEEDS_CLOSURE.format(name=type(self).__name__))
        if isinstance(closure, RecordedLoss):
            batch = Batch(closure, closure.loss, closure.gradient_scale)
        elif loss is not None:
            batch = Batch(closure, loss)
        else:
            batch = self._evaluate(closure)
        if not self.param_groups[0]["line_search"]["counts"]["steps"]:
            _warn_of_learning_rates(self.param_groups)
        batch.with_gradients = self._with_gradients
        report = self._step(batch)
        self._with_gradients = batch.with_gradients
        self._count(report)
        self._report, self._unread = report, None
        if report.outcome != "not_searched":
            self.last_search = report
        else:
            self._unread = (batch.loss, batch.skip)
            self._skips = batch.skip if self._skips is None else self._skips + batch.skip
        self._watch(batch.loss)
        return batch.loss.detach() if isinstance(batch.loss, Tensor) else batch.loss

    def _evaluate(self, closure: Closure) -> Batch:
        """Evaluate the loss with its gradients."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        random_state = RandomState.capture({parameter.device for parameter in parameters})
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
            _check_loss(loss, has_gradients=any(parameter.grad is not None for parameter in parameters))
            loss = torch.as_tensor(loss)
            torch.autograd.backward(loss)
        averaged = partial(mean_of_evaluations, closure, like=loss)
        return Batch(averaged, mean_over_processes(loss, loss.device), random_state=random_state)

    def _step(self, batch: Batch) -> SearchReport:
        """Search the groups whose turn it is, and move the others by the step size they have."""
        due, late = self.search_due, self._late_parameters()
        if late and due:
            self._start_anew()
        indices, left_out = (self._searched_indices(), set[int]()) if due else ([], late)
        shares = self._shares()
        moves = [self._move([i], shares, left_out) for i in range(len(self.param_groups)) if i not in indices]
        searched = self._move(indices, shares, left_out)
        batch.skip = _not_finite(batch.loss, [searched, *moves])
        report = SearchReport("not_searched", self.param_groups[0]["step_size"])
        if indices:
            report = search(self.rules, searched, batch, self._has_found_a_step, self.observer)
        for move in moves:
            self._move_unsearched(move, batch.skip, report)
        if not indices:
            report = replace(report, step_size=self.param_groups[0]["step_size"])
        if left_out:
            self._start_anew()
        return report

    def _late_parameters(self) -> set[int]:
        """Return the ids of parameters that have their first gradient now, after a step size was found for others."""
        if not self._has_found_a_step or not any(self.state.values()):
            return set()
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        return {id(parameter) for parameter in parameters if parameter.grad is not None and not self.state[parameter]}

    def _start_anew(self) -> None:
        """Forget the step size: it was found for other parameters, and may be far too long for those that join them."""
        new = self._new_memory()
        names = ("step_size", "criterion", "initial_step", "has_found_a_step")
        self._remember_in_all(**{name: new[name] for name in names})

    def _move_unsearched(self, move: Move, skip: Tensor, report: SearchReport) -> None:
        """Take the step of a group that is not searched: none is, or another one was."""
        memory, is_elsewhere = move.memory, report.outcome != "not_searched"
        if is_elsewhere:
            step_size = self.initial_step.propose(move.step_size, memory["initial_step"])
            trials = report.trials if self._has_found_a_step or report.outcome == "accepted" else 0
            memory = {**memory, "cadence": self.cadence.waited(trials, memory["cadence"])}
        else:
            step_size = self.initial_step.unsearched(move.step_size, memory["initial_step"])
            memory = {**memory, "cadence": self.cadence.skipped(memory["cadence"])}
        if move.parameters and report.outcome != "non_finite":
            memory = {**memory, "step_size": step_size}
            weight_decay = move.groups[0]["weight_decay"]
            self.direction.advance(
                move.parameters, move.gradients, move.states, move.shares[0] * step_size, weight_decay, skip
            )
        move.remember(memory)

    @property
    def _has_found_a_step(self) -> bool:
        return bool(self.param_groups[0]["line_search"]["has_found_a_step"])

    def _count(self, report: SearchReport) -> None:
        accepted, searched = report.outcome == "accepted", report.outcome != "not_searched"
        sums = ("loss_decrease", "slope", "criterion_ratio") if accepted else ()
        self._add_to_counts(
            steps=1,
            searches=int(searched),
            accepted=int(accepted),
            trials=report.trials,
            checks=report.checks,
            backtracks=report.backtracks,
            skipped_steps=int(searched and not accepted),
            **{name: getattr(report, name) for name in sums},
        )
        if accepted and not self._has_found_a_step:
            self._remember_in_all(has_found_a_step=True)

    def _add_to_counts(self, **events: float) -> None:
        for group in self.param_groups:
            counts = {name: count + events.get(name, 0) for name, count in group["line_search"]["counts"].items()}
            group["line_search"] = {**group["line_search"], "counts": counts}

    def _watch(self, loss: Tensor | float) -> None:
        """Let the watch see the loss of the step; it reads them a window at a time, and waits for the device then."""
        if self.watch is None:
            return
        self._unwatched.append(loss.detach().clone() if isinstance(loss, Tensor) else loss)
        memory = self.param_groups[0]["line_search"]["watch"]
        if memory["steps"] % self.watch.window + len(self._unwatched) < self.watch.window:
            return
        self._read_losses()
        memory = self.param_groups[0]["line_search"]["watch"]
        worse = self.watch.got_worse(memory)
        self._remember_in_all(watch=self.watch.looked(memory))
        if worse:
            self._shorten(memory)

    def _shorten(self, watched: dict[str, float]) -> None:
        """Divide the step size by four, and say why."""
        taken = self.param_groups[0]["step_size"]
        for group in self.param_groups:
            memory = group["line_search"]
            shortened = self.initial_step.shortened(0.25, memory["initial_step"])
            group["line_search"] = {**memory, "step_size": memory["step_size"] / 4, "initial_step": shortened}
        warnings.warn(
            f"The loss of the last {watched['steps']} steps, {watched['mean']:.4g} on average, is above the "
            f"{watched['least']:.4g} that the run had reached. Steps of {taken:.1e} are too long for it now; those to "
            "come are a quarter of that.",
            stacklevel=4,
        )

    def _read_losses(self) -> None:
        """Let the watch see the losses that the device has kept until here."""
        if self.watch is not None and self._unwatched:
            losses, self._unwatched = to_floats(*self._unwatched), []
            if len(losses) >= self.watch.window and not any(map(isfinite, losses)):
                warnings.warn(
                    f"None of the last {len(losses)} losses is finite, so no step was taken. Look at the batches and "
                    "at the model; in fp16 try bf16.",
                    stacklevel=5,
                )
            self._remember_in_all(watch=self.watch.seen(losses, self.param_groups[0]["line_search"]["watch"]))

    def _remember_in_all(self, **entries: Any) -> None:
        for group in self.param_groups:
            group["line_search"] = {**group["line_search"], **entries}

    def _shares(self) -> list[float]:
        """Return which share of the step found each group takes; of whole steps the group of the largest `lr` all."""
        shares = [float(group["lr"]) for group in self.param_groups]
        if not self.initial_step.whole_steps:
            return shares
        whole = max(shares, default=0.0)
        if self.initial_step.settled(self.param_groups[0]["line_search"]["initial_step"]):
            whole = max([1.0, *(float(group.get("initial_lr", group["lr"])) for group in self.param_groups)])
        return [share / whole for share in shares] if whole else shares

    def _searched_indices(self) -> list[int]:
        layers = [group.get("layer", index) for index, group in enumerate(self.param_groups)]
        return self.partition.searched(layers, self.param_groups[0]["line_search"]["counts"]["steps"])

    def _move(self, indices: list[int], shares: list[float], left_out: Container[int] = ()) -> Move:
        """Gather the parameters of some groups that have a gradient, and create their state where there is none."""
        move = Move([self.param_groups[i] for i in indices], [shares[i] for i in indices])
        for group, share in zip(move.groups, move.shares):
            whole = Kind(share, group["weight_decay"], shard_groups=())
            for parameter in group["params"]:
                if parameter.grad is None or id(parameter) in left_out:
                    continue
                if parameter.grad.is_sparse:
                    raise RuntimeError(
                        f"{type(self).__name__} does not support sparse gradients; use nn.Embedding(sparse=False)."
                    )
                if not self.state[parameter]:
                    self.state[parameter].update(self.direction.new_state(parameter))
                state, sharded = self.state[parameter], isinstance(parameter, DTensor)
                move.parameters.append(local(parameter))
                move.gradients.append(local(parameter.grad))
                move.states.append({name: local(value) for name, value in state.items()} if sharded else state)
                move.kinds.append(replace(whole, shard_groups=shard_groups(parameter)) if sharded else whole)
        return move


def _warn_of_learning_rates(groups: list[dict[str, Any]]) -> None:
    """Warn of an `lr` in the groups that is one of AdamW's rather than a share of the step."""
    largest = max(float(group.get("initial_lr", group["lr"])) for group in groups)
    if 0 < largest < _LEAST_SHARE:
        warnings.warn(
            f"lr={largest:.3g} in the parameter groups is not a learning rate here: it is the share of the step size "
            "found that is taken, 1 for all of it, so this run will hardly move. Divide the lr of all groups by the "
            "largest, which keeps their ratios; a schedule starts from 1.",
            stacklevel=3,
        )


def _check_loss(loss: Any, has_gradients: bool) -> None:
    """Raise `RuntimeError` for what a closure must not do, with what to do instead."""
    instead = "closure() has to return the loss of the mini-batch, a scalar with its graph, and nothing else."
    if has_gradients:
        raise RuntimeError(
            "closure() has called backward() itself, as torch.optim.LBFGS and Lightning want it. Here step() does: "
            "leave zero_grad() and backward() out. " + instead
        )
    if not isinstance(loss, Tensor):
        raise RuntimeError(f"closure() returned {loss!r}. {instead}")
    if loss.dim():
        raise RuntimeError(f"closure() returned a tensor of the shape {tuple(loss.shape)}, not a scalar. {instead}")
    if not loss.requires_grad:
        raise RuntimeError(f"closure() returned a loss without a graph. {instead} Leave out detach() and item().")


def _not_finite(loss: Tensor | float, moves: list[Move]) -> Tensor:
    """Return 1.0 where the loss or a gradient is NaN or infinite, else 0.0; a 0-dim tensor, read by nobody yet."""
    gradients = [gradient for move in moves for gradient in move.gradients]
    probe = square_sum(gradients)
    probe = probe + torch.as_tensor(loss, dtype=probe.dtype, device=probe.device)
    for groups in dict.fromkeys(kind.shard_groups for move in moves for kind in move.kinds):
        probe = sum_over_shards(probe, groups)
    return 1 - probe.isfinite().float()
