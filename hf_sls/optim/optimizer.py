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
from ._validation import LARGEST, check_range
from .backtracking import Backtracking
from .cadence import Cadence, EveryStep
from .checks import check_learning_rates, check_loss, check_settings_of_group
from .criterion import Armijo, Criterion
from .direction import Direction
from .events import Event, NotSearched, SearchedElsewhere, Worsened
from .initial_step import InitialStep, LastStep
from .look_back import look_back
from .partition import Joint, Partition
from .path import Part
from .random_state import RandomState
from .search import Move, Rules, SearchReport, search
from .sharding import ShardGroups, local, mean_of_evaluations, mean_over_processes, shard_groups, sum_over_shards
from .state import checked_groups, new_memory
from .trials import Batch, Closure, Observer, RecordedLoss
from .watch import Watch

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

_NEEDS_CLOSURE = (
    "{name}.step() has no closure to evaluate the loss with. In plain PyTorch call step(closure), where closure() "
    "returns the loss of the current mini-batch; with the Hugging Face Trainer use hf_sls.SLSTrainer, or add "
    "hf_sls.LineSearchTrainerMixin to your own Trainer subclass."
)
_UNCERTAIN = (
    "The search is without a clear answer so far: the batches do not agree on a longer step, so the step size stays "
    "near {:.1e}. It goes on at a few steps. That is right where labels are noisy. If the loss falls too slowly, "
    "shuffle the data and use larger batches, or start three to ten times higher with init_step_size={:g}, also the "
    "largest step then."
)


class LineSearchOptimizer(torch.optim.Optimizer):
    r"""Step along a direction, by the largest tried step size that the loss of the same mini-batch accepts.

    With the gradient g_k of the mini-batch loss f_k at w_k, the searched direction p_k, the applied direction d_k and
    the slope `s_k = -<g_k, p_k>`, a step is::

        eta_k    = initial_step, shrunk by backtracking until f_k(w_k + eta p_k) <= a - b eta   (the criterion's line)
        w_{k+1}  = w_k + lr eta_k (d_k - weight_decay w_k)                                      (decay as in AdamW)

    In the first steps of `LookBack`, a warm-up, `lr` counts relative to the largest of any group so far.

    Every named optimizer of the package is one composition of the rules; write your own the same way:

        >>> from hf_sls.optim import Adam, Armijo, LastStep
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = LineSearchOptimizer(
        ...     model.parameters(), direction=Adam(), criterion=Armijo(c=0.3), initial_step=LastStep(0.01)
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
        watch: notices that the run gets worse; a warning says so, and the step size is divided by four. `None` turns
            it off.
        weight_decay: decoupled weight decay, times the step size taken; at least 0.
        lr: fraction of the step size found to take, at least 0; a learning-rate schedule multiplies it, so that a
            linear one lets the steps run out. The step size last taken, `lr * eta_k`, is `param_group["step_size"]`, 0
            before the first step and after a step that moved nothing.

    Raises:
        ValueError: a value is out of range, a state dict belongs to another optimizer, or the initial step needs a
            direction whose update depends on the moments alone.
        TypeError: a parameter is complex.
    """

    closure: RecordedLoss | None = None
    """The closure of the next `step()` without an argument, used once: for a loop that calls `step()` itself."""

    observer: Observer | None = None
    """Called with each `FinishedSearch` before its step is taken; its evaluations leave no trace."""

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
        if self.initial_step.needs_last_update and not self.direction.of_moments_alone:
            raise ValueError(
                f"initial_step={self.initial_step!r} needs the last update when the next batch comes, and direction="
                f"{self.direction!r} has forgotten it by then. Use a direction whose update depends on the moments "
                "alone, such as Adam."
            )
        self.watch = watch
        self._unwatched: list[Tensor | float] = []
        self._report: SearchReport | None = None
        self._unread: tuple[Tensor | float, Tensor] | None = None
        self._skips: Tensor | None = None
        self._last_lr: float | None = None
        self._has_warned_of_rates = self._has_warned_of_disagreement = False
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which takes part in the searches. If its parameters come late, the search starts anew.

        Raises:
            ValueError: `lr` or `weight_decay` is out of range, or the group has a setting of the whole optimizer.
            TypeError: a parameter is complex.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_settings_of_group(group, type(self))
            for name in ("lr", "weight_decay"):
                value = group[name].item() if isinstance(group[name], Tensor) else group[name]
                check_range(name, value, low=0.0, high=LARGEST)
            if any(parameter.is_complex() for parameter in group["params"]):
                raise TypeError(f"{type(self).__name__} does not support complex parameters.")
        except Exception:
            self.param_groups.pop()
            raise
        others = self.param_groups[:-1]
        group["line_search"] = others[0]["line_search"] if others else self._new_memory()
        group["step_size"] = 0.0

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
        self._report = self.last_search = self._unread = self._skips = self._last_lr = None
        self._unwatched = []
        self._has_warned_of_disagreement = self.is_uncertain
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
            "last_search": self.last_search,
            "_has_warned_of_rates": self._has_warned_of_rates,
            "_has_warned_of_disagreement": self._has_warned_of_disagreement,
            **dict.fromkeys(("_report", "_unread", "_skips", "_last_lr", "closure")),
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
            self._report = replace(self._report, loss=loss)
            if skipped:
                self._report = replace(self._report, outcome="non_finite", step_size=0.0)
            self._unread = None
        return self._report

    @property
    def last_trials(self) -> int:
        """The forward passes of the last step beyond its own: trials, or a look back. It never waits for the device."""
        return self._report.trials if self._report is not None else 0

    @property
    def last_step_sizes(self) -> list[float]:
        """The step size that each group took in the last step, 0 where it moved nothing. May wait for the device."""
        skipped = self.last_report is not None and self.last_report.outcome == "non_finite"
        return [0.0 if skipped else group["step_size"] for group in self.param_groups]

    @property
    def found_step_sizes(self) -> list[float]:
        """The step size of each group before the schedule scales it; 0 before the first step."""
        return [float(group["line_search"]["initial_step"]["step_size"]) for group in self.param_groups]

    def _read_skips(self) -> None:
        """Add the skipped steps without a search to the counts; the device has kept their number until now."""
        if self._skips is not None:
            skips, self._skips = int(self._skips), None
            self._add_to_counts(skipped_steps=skips)

    @property
    def search_due(self) -> bool:
        """Whether the next step may evaluate the closure, to search or look back; it does until a search succeeds."""
        memories = [self.param_groups[i]["line_search"] for i in self._groups_to_search()]
        goes_on = getattr(self.cadence, "after_settling", False)
        return not self._has_found_a_step or any(
            self.cadence.due(memory["cadence"]) and (goes_on or self.initial_step.due(memory["initial_step"]))
            for memory in memories
        )

    @property
    def is_uncertain(self) -> bool:
        """Whether so many batches have looked back (`LookBack.batches`), or more, and do not agree on a longer step."""
        return any(self.initial_step.uncertain(group["line_search"]["initial_step"]) for group in self.param_groups)

    @property
    def counts(self) -> dict[str, float]:
        """Totals since the first step, over resumed runs too.

        `steps`, `searches`, `accepted` (searches that found a step), `trials`, `checks` (forward passes that check loss
        and gradient), `backtracks`, `skipped_steps` (those that moved nothing); and the sums over the accepted
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
        """Count a step as skipped if `closure` is still here: the gradient scaler of fp16 has left the step out."""
        if self.closure is not None:
            self.closure = None
            self._add_to_counts(steps=1, skipped_steps=1)
            self._report, self._unread = SearchReport("non_finite", 0.0), None
            for group in self.param_groups:
                group["step_size"] = 0.0

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure | None = None, loss: Tensor | float | None = None
    ) -> Tensor | float | None:
        """Take one step and return the loss before it.

        `step(closure)` clears the gradients, evaluates the closure once with gradients and runs backward itself; the
        trials repeat the random state of that evaluation, so that dropout masks are the same. Several processes of
        `torch.distributed` count as replicas of one model: the loss is averaged over them, and each has to call `step`.

        After a backward pass of your own, call `step(closure)` with a `hf_sls.LossClosure`, or `step(closure,
        loss=loss)`, which makes no collective call itself. The closure then has to restore the random state
        (`RandomState`) of the evaluation that gave `loss`, to put back the buffers of the model, and to average over
        replicas; `hf_sls.LossClosure` does all of that.

        Either way the random stream after the step is what it would be without the search. After a search without an
        accepted trial, or an exception in the closure, the parameters are as before: to the bit along the gradient and
        after a step well above 1e-2; otherwise to the rounding of one move there and back, because no copy is made.

        Args:
            closure: returns the loss of the current mini-batch, a scalar, and does not call backward. Trials call it
                under `torch.no_grad()`.
            loss: the loss at the current parameters, when the gradients are already in `.grad`.

        Raises:
            RuntimeError: there is no closure, neither as argument nor as attribute, or a gradient is sparse.
            TypeError: the closure is not a function.
        """
        closure, self.closure = closure if closure is not None else self.closure, None
        if closure is None:
            self._create_state()
            return None
        if not callable(closure):
            raise TypeError(
                f"step(closure={closure!r}) is not allowed: a function that returns the loss of the batch is needed, "
                "because the search evaluates it again."
            )
        if not self._has_warned_of_rates:
            largest_so_far = float(self.param_groups[0]["line_search"]["largest_lr"])
            self._has_warned_of_rates = check_learning_rates(self.param_groups, self._last_lr, largest_so_far)
            self._last_lr = max(float(group["lr"]) for group in self.param_groups)
        batch = self._batch(closure, loss)
        report = self._step(batch)
        self._count(report, batch)
        self._watch(batch.loss)
        if not self._has_warned_of_disagreement and self.is_uncertain:
            self._has_warned_of_disagreement = True
            higher = 10 * self.initial_step.init_step_size
            warnings.warn(_UNCERTAIN.format(self.found_step_sizes[0], higher), stacklevel=4)
        return batch.loss.detach() if isinstance(batch.loss, Tensor) else batch.loss

    def _create_state(self) -> None:
        """Create the moments, as torch.distributed.checkpoint asks for by a step with `lr` 0; else raise an error."""
        if any(float(group["lr"]) for group in self.param_groups):
            raise RuntimeError(_NEEDS_CLOSURE.format(name=type(self).__name__))
        self._move(list(range(len(self.param_groups))), self._fractions())

    def _batch(self, closure: Closure, loss: Tensor | float | None) -> Batch:
        """Gather what is known of the mini-batch, whose gradients are in `.grad` then."""
        if isinstance(closure, RecordedLoss):
            batch = Batch(closure, closure.loss, closure.gradient_scale)
        else:
            batch = Batch(closure, loss) if loss is not None else self._evaluate(closure)
        batch.with_gradients = self.param_groups[0]["line_search"]["with_gradients"]
        return batch

    def _evaluate(self, closure: Closure) -> Batch:
        """Evaluate the loss with its gradients."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        random_state = RandomState.capture({parameter.device for parameter in parameters})
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
            check_loss(loss, has_gradients=any(parameter.grad is not None for parameter in parameters))
            loss = torch.as_tensor(loss)
            torch.autograd.backward(loss)
        averaged = partial(mean_of_evaluations, closure, like=loss)
        return Batch(averaged, mean_over_processes(loss, loss.device), random_state=random_state)

    def _step(self, batch: Batch) -> SearchReport:
        """Search the groups whose turn it is, and move the others by the step size they have."""
        is_due, late = self.search_due, self._late_parameters()
        if late and is_due:
            self._start_anew()
        left_out = set[int]() if is_due else late
        indices, fractions = self._groups_to_search(), self._fractions()
        self._remember_in_all(largest_lr=self._largest_lr())
        first = self._move(indices, fractions, left_out)
        others = [self._move([i], fractions, left_out) for i in range(len(self.param_groups)) if i not in indices]
        batch.skip = _not_finite(batch.loss, [first, *others])
        if is_due:
            looks_back = self.initial_step.looks_back(first.memory["initial_step"])
            report = (look_back if looks_back else search)(self.rules, first, batch, self.observer)
            event: Event = SearchedElsewhere(report.trials, report.outcome == "accepted")
        else:
            report, event = SearchReport("not_searched", 0.0), NotSearched()
            self._move_unsearched(first, batch.skip, event)
        for move in others:
            self._move_unsearched(move, batch.skip, event, moves_nothing=report.outcome == "non_finite")
        if left_out:
            self._start_anew()
        return report if is_due else replace(report, step_size=self.param_groups[0]["step_size"])

    def _late_parameters(self) -> set[int]:
        """Return the ids of parameters that get their first gradient after a step size was found for others."""
        if not self._has_found_a_step or not any(self.state.values()):
            return set()
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        return {id(parameter) for parameter in parameters if parameter.grad is not None and not self.state[parameter]}

    def _start_anew(self) -> None:
        """Forget the step size: it was found without the parameters that join now, and may be far too long for them."""
        new = self._new_memory()
        names = ("criterion", "initial_step", "has_found_a_step")
        self._remember_in_all(**{name: new[name] for name in names})

    def _move_unsearched(self, move: Move, skip: Tensor, event: Event, moves_nothing: bool = False) -> None:
        """Take the step of groups that were not searched; they have one memory."""
        memory = {**move.memory, "cadence": self.cadence.update(move.memory["cadence"], event)}
        step_size = 0.0
        if not moves_nothing:
            memory["initial_step"] = self.initial_step.update(memory["initial_step"], event)
            if move.parts:
                step_size, memory["last_step_size"] = memory["initial_step"]["step_size"], 0.0
            for part in move.parts:
                eta = part.lr * step_size
                self.direction.advance(part.parameters, part.gradients, part.states, eta, part.weight_decay, skip)
        move.remember(memory, step_size)

    @property
    def _has_found_a_step(self) -> bool:
        return bool(self.param_groups[0]["line_search"]["has_found_a_step"])

    def _count(self, report: SearchReport, batch: Batch) -> None:
        """Keep the report and add it to the counts; loss and skip of a step without a search are read later."""
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
        if batch.with_gradients != self.param_groups[0]["line_search"]["with_gradients"]:
            self._remember_in_all(with_gradients=batch.with_gradients)
        if searched:
            self._report = self.last_search = report
            self._unread = None
            found = self._has_found_a_step or accepted
            self._remember_in_all(has_found_a_step=found)
        else:
            self._report, self._unread = report, (batch.loss, batch.skip)
            self._skips = batch.skip if self._skips is None else self._skips + batch.skip

    def _add_to_counts(self, **events: float) -> None:
        for group in self.param_groups:
            counts = {name: count + events.get(name, 0) for name, count in group["line_search"]["counts"].items()}
            group["line_search"] = {**group["line_search"], "counts": counts}

    def _watch(self, loss: Tensor | float) -> None:
        """Show the loss of the step to the watch, a window at a time, because reading waits for the device."""
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

    def forget_losses(self) -> None:
        """Let the watch start anew, before training on other data, whose loss may be higher."""
        self._unwatched = []
        if self.watch is not None:
            self._remember_in_all(watch=self.watch.new_memory())

    def _shorten(self, watched: dict[str, float]) -> None:
        """Divide the step size by four, and say why."""
        first = self.found_step_sizes[0] * self._fractions()[0]
        for group in self.param_groups:
            memory = group["line_search"]
            initial_step = self.initial_step.update(memory["initial_step"], Worsened(0.25))
            group["line_search"] = {**memory, "initial_step": initial_step}
        warnings.warn(
            f"The loss of the last {watched['steps']} steps, {watched['mean']:.4g} on average, is above the "
            f"{watched['least']:.4g} that the run had reached. Steps of {first:.1e} are "
            "too long for it now; those to come are a quarter of that. If the loss is to rise, as a weight in it "
            "grows, watch=False leaves the steps as they are.",
            stacklevel=4,
        )

    def _read_losses(self) -> None:
        """Show the watch the losses that the device has kept until now."""
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

    def _fractions(self) -> list[float]:
        """Return the fraction of the step found that each group takes, which is its `lr`.

        With a rule that looks back the largest `lr` takes the whole step: the largest at the start of the schedule, and
        the largest so far while the search is a warm-up, so that a step is whole while a schedule rises.
        """
        fractions = [float(group["lr"]) for group in self.param_groups]
        if self.initial_step.warms_up(self.param_groups[0]["line_search"]["initial_step"]):
            whole = self._largest_lr()
        elif self.initial_step.needs_last_update:
            whole = max([1.0, *(float(group.get("initial_lr", group["lr"])) for group in self.param_groups)])
        else:
            return fractions
        return [fraction / whole for fraction in fractions] if whole else fractions

    def _largest_lr(self) -> float:
        """Return the largest `lr` of any group so far."""
        before = float(self.param_groups[0]["line_search"]["largest_lr"])
        return max([before, *(float(group["lr"]) for group in self.param_groups)])

    def _groups_to_search(self) -> list[int]:
        layers = [group.get("layer", index) for index, group in enumerate(self.param_groups)]
        return self.partition.groups_to_search(layers, self.param_groups[0]["line_search"]["counts"]["steps"])

    def _move(self, indices: list[int], fractions: list[float], left_out: Container[int] = ()) -> Move:
        """Gather the parameters of some groups that have a gradient, and create their state where there is none."""
        move = Move([self.param_groups[i] for i in indices], [fractions[i] for i in indices])
        for group, fraction in zip(move.groups, move.fractions):
            parts: dict[ShardGroups, Part] = {}
            for parameter in group["params"]:
                if parameter.grad is None or id(parameter) in left_out:
                    continue
                if parameter.grad.is_sparse:
                    raise RuntimeError(
                        f"{type(self).__name__} does not support sparse gradients; use nn.Embedding(sparse=False)."
                    )
                if not self.state[parameter]:
                    self.state[parameter].update(self.direction.new_state(parameter))
                shards = shard_groups(parameter)
                part = parts.setdefault(shards, Part(fraction, group["weight_decay"], shards))
                part.parameters.append(local(parameter))
                part.gradients.append(local(parameter.grad))
                state, is_sharded = self.state[parameter], isinstance(parameter, DTensor)
                part.states.append({name: local(value) for name, value in state.items()} if is_sharded else state)
            move.parts.extend(parts.values())
        return move


def _not_finite(loss: Tensor | float, moves: list[Move]) -> Tensor:
    """Return 1.0 if the loss or a gradient is NaN or infinite, else 0.0; a 0-dim tensor that nobody has read yet."""
    parts = [part for move in moves for part in move.parts]
    probe = square_sum([gradient for part in parts for gradient in part.gradients])
    probe = probe + torch.as_tensor(loss, dtype=probe.dtype, device=probe.device)
    for groups in dict.fromkeys(part.shard_groups for part in parts):
        probe = sum_over_shards(probe, groups)
    return 1 - probe.isfinite().float()
