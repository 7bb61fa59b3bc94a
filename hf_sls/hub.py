"""Pushing to the Hub: what a Trainer does where the Hub does not take its model."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

if TYPE_CHECKING:
    from transformers import Trainer as _Base
    from transformers import TrainingArguments
else:
    _Base = object

logger = logging.getLogger(__name__)

_REFUSED = (401, 403)
_NOT_PUSHED = ("_*", "*checkpoint-*")


class HubError(OSError):
    """The Hub did not create the repository, or did not take the push; the message says what to do.

    `__cause__` is the exception of `huggingface_hub`. A model that was trained is on disk.
    """


class PushMixin(_Base):
    """Keeps the trained model, and says how to push it later, where a push of the Trainer fails."""

    _ready_to_push = False

    def init_hf_repo(self, token: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Create the repository as the Trainer does, and find out now whether the token may write to it.

        Raises:
            HubError: it cannot be created or written to, or the Hub cannot be reached.
        """
        try:
            super().init_hf_repo(token, *args, **kwargs)
            if self.hub_model_id is not None:
                check_may_write(self.hub_model_id, token or self.args.hub_token)
        except Exception as error:
            self.hub_model_id: str | None = None
            raise HubError(
                f"The Hub at {constants.ENDPOINT} does not open the repository {_repository(self.args)!r} for a push: "
                f"{_explanation(error)}\n"
                "Log in with `hf auth login`, or set HF_TOKEN to a token that may write. "
                "Without push_to_hub the run needs no Hub."
            ) from error

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Push as the Trainer does, with the arguments of the Trainer and of `create_model_card`.

        Raises:
            HubError: the Hub cannot be reached or does not take the model, or checkpoints of `hyperparameter_search`
                would go along. The model is in `output_dir` then, and the message has the command that pushes it later.
        """
        self._ready_to_push = False
        if checkpoint := _checkpoint_of_a_trial(self.args.output_dir):
            self.save_model(_internal_call=True)
            raise HubError(
                f"The model is saved in {self.args.output_dir}, but not pushed: {checkpoint} would go along, a "
                "checkpoint of hyperparameter_search. Move it away, or push with\n"
                f"    {push_command(self.args, self.hub_model_id)}"
            )
        if not self.args.push_to_hub:
            self.save_model(_internal_call=True)  # the Trainer creates the repository first, and saves after
        try:
            return super().push_to_hub(*args, **kwargs)
        except Exception as error:
            if not (self._ready_to_push or isinstance(error, HubError)):
                raise
            raise HubError(
                f"The model is trained and saved in {self.args.output_dir}, but not pushed to "
                f"{self.hub_model_id or _repository(self.args)}: {_explanation(error.__cause__ or error)}\n"
                "Push it later, after `hf auth login` if the token was refused, with\n"
                f"    {push_command(self.args, self.hub_model_id)}"
            ) from error

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card as the Trainer does; it is the last thing before an upload."""
        super().create_model_card(*args, **kwargs)
        self._ready_to_push = True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as the Trainer does. With `push_to_hub=True` it pushes too: where that fails the run goes on."""
        try:
            super().save_model(output_dir, _internal_call)
        except HubError as error:
            logger.error(error)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push in training as the Trainer does, unless checkpoints of `hyperparameter_search` would go along."""
        if checkpoint := _checkpoint_of_a_trial(self.args.output_dir):
            logger.warning(f"{checkpoint_folder} is not pushed: {checkpoint} would go along.")
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    def _finish_current_push(self) -> None:
        """Wait for the pushes made in training, and tell of those that failed, which the Trainer keeps to itself."""
        super()._finish_current_push()
        pushes = getattr(self, "push_in_progress", None)
        for job in pushes.jobs if pushes is not None else []:
            if job.exception() is not None:
                logger.warning(f"A push in training has failed: {_explanation(job.exception())}")
        self.push_in_progress = None


def check_may_write(repo: str, token: str | None) -> None:
    """Ask the Hub whether the token may write to a repository, which `create_repo` leaves open where it exists.

    Args:
        repo: `namespace/name`.
        token: `None` for the one of `HF_TOKEN` or `hf auth login`.

    Raises:
        HfHubHTTPError: it may not.
    """
    try:
        HfApi().auth_check(repo, token=token, write=True)
    except TypeError:  # an older huggingface_hub asks for reading only
        return
    except HfHubHTTPError as error:
        if error.response.status_code in _REFUSED:
            raise


def push_command(args: TrainingArguments, repo: str | None = None) -> str:
    """Return the command that pushes what `trainer.push_to_hub()` pushes.

    Args:
        args: says which directory, which revision, and whether the repository is private.
        repo: `namespace/name`, where it is known; else the name in `args`.
    """
    command = ["hf", "upload", repo or _repository(args), str(args.output_dir), "."]
    for pattern in _NOT_PUSHED:
        command += ["--exclude", pattern]
    if args.hub_private_repo:
        command.append("--private")
    if getattr(args, "hub_revision", None):
        command += ["--revision", args.hub_revision]
    return shlex.join(command)


def _checkpoint_of_a_trial(output_dir: str | None) -> Path | None:
    """Return a checkpoint one level down, in the directory of a trial, which the Trainer would push."""
    found = Path(output_dir or "").glob("*/checkpoint-*")
    return next((path for path in found if not path.parent.name.startswith(("_", "checkpoint-"))), None)


def _repository(args: TrainingArguments) -> str:
    """Return the name of the repository that `args` ask for; without a namespace it is one of the token's owner."""
    return args.hub_model_id or Path(args.output_dir).absolute().name


def _explanation(error: BaseException) -> str:
    """Return the messages of an exception and of its first cause, on one line."""
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    messages = dict.fromkeys(" ".join(str(e).split()) or type(e).__name__ for e in (error, cause))
    return " ".join(messages)
