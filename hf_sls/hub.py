"""Pushing to the Hub: how a Trainer keeps its model, and what it says, when a push fails."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from .private import public_when_written, remove_paths_from_json

if TYPE_CHECKING:
    from transformers import Trainer as _Base
    from transformers import TrainingArguments
else:
    _Base = object

logger = logging.getLogger(__name__)

_DENIED = (401, 403)
_TRAINER_STATE = "trainer_state.json"
_WITH_CHECKPOINTS = ("checkpoint", "all_checkpoints")
_IGNORED_FILES = ("_*", "*checkpoint-*")


class HubError(OSError):
    """The Hub did not create the repository or refused the push; the message says what to do.

    `__cause__` is the exception of `huggingface_hub`. If the model was trained, it is on disk.
    """


class PushMixin(_Base):
    """Keeps the trained model when a push of the Trainer fails, and says how to push it later."""

    args: TrainingArguments
    _ready_to_push = False

    def init_hf_repo(self, token: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Create the repository as the Trainer does, and check that the token may write to it.

        Raises:
            HubError: the repository cannot be created or written to, or the Hub cannot be reached.
        """
        try:
            super().init_hf_repo(token, *args, **kwargs)
            if self.hub_model_id is not None:
                check_may_write(self.hub_model_id, token or self.args.hub_token)
        except Exception as error:
            self.hub_model_id: str | None = None
            raise HubError(
                f"The repository {_repository(self.args)!r} on the Hub at {constants.ENDPOINT} cannot be pushed to: "
                f"{_explanation(error)}\n"
                "Log in with `hf auth login`, or set HF_TOKEN to a token that may write. "
                "Without push_to_hub the run needs no Hub."
            ) from error

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Push as the Trainer does; takes the arguments of `Trainer.push_to_hub` and of `create_model_card`.

        Raises:
            HubError: the Hub cannot be reached or refuses the model, or the push would include checkpoints of
                `hyperparameter_search`. The model is in `output_dir`, and the message has the command to push it later.
        """
        self._ready_to_push = False
        if checkpoint := _checkpoint_of_a_trial(self.args.output_dir):
            self.save_model(_internal_call=True)
            raise HubError(
                f"The model is saved in {self.args.output_dir}, but not pushed: the push would include "
                f"{checkpoint}, a checkpoint of hyperparameter_search. Move it elsewhere, or push with\n"
                f"    {push_command(self.args, self.hub_model_id)}"
            )
        self._remove_paths_from_state(self.args.output_dir)
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
        """Write the card as the Trainer does; in a push this comes last before the upload."""
        super().create_model_card(*args, **kwargs)
        self._ready_to_push = True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as the Trainer does. With `push_to_hub=True` that also pushes; if the push fails, the run goes on."""
        try:
            super().save_model(output_dir, _internal_call)
        except HubError as error:
            logger.error(error)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push in training as the Trainer does, without secrets and paths in its arguments and state.

        Nothing is pushed if that would include checkpoints of `hyperparameter_search`.
        """
        if checkpoint := _checkpoint_of_a_trial(self.args.output_dir):
            logger.warning(f"{checkpoint_folder} is not pushed, as the push would include {checkpoint}.")
            return
        if self.args.hub_strategy in _WITH_CHECKPOINTS:
            self._remove_paths_from_state(checkpoint_folder)
        arguments = self.args
        self.args = public_when_written(arguments)  # the Trainer saves them anew in `output_dir`, and uploads that
        try:
            super()._push_from_checkpoint(checkpoint_folder)
        finally:
            self.args = arguments

    def _remove_paths_from_state(self, folder: str) -> None:
        if self.is_world_process_zero():
            remove_paths_from_json(Path(folder, _TRAINER_STATE), best_model_checkpoint=None)

    def _finish_current_push(self) -> None:
        """Wait for the pushes made in training, and warn of those that failed, which the Trainer does not mention."""
        super()._finish_current_push()
        pushes = getattr(self, "push_in_progress", None)
        for job in pushes.jobs if pushes is not None else []:
            if job.exception() is not None:
                logger.warning(f"A push in training failed: {_explanation(job.exception())}")
        self.push_in_progress = None


def check_may_write(repo: str, token: str | None) -> None:
    """Check that a token may write to a repository, which `create_repo` does not do if the repository exists.

    Args:
        repo: `namespace/name`.
        token: the token; `None` for that of `HF_TOKEN` or `hf auth login`.

    Raises:
        HfHubHTTPError: the token may not write. What else goes wrong with the question is no answer to it.
    """
    try:
        HfApi().auth_check(repo, token=token, write=True)
    except Exception as error:  # an older huggingface_hub cannot ask, and a connection may break
        if isinstance(error, HfHubHTTPError) and error.response.status_code in _DENIED:
            raise


def push_command(args: TrainingArguments, repo: str | None = None) -> str:
    """Return the shell command that pushes what `trainer.push_to_hub()` pushes.

    Args:
        args: training arguments with the directory, the revision, and whether the repository is private.
        repo: `namespace/name`. Default: the name in `args`.
    """
    command = ["hf", "upload", repo or _repository(args), str(args.output_dir), "."]
    for pattern in _IGNORED_FILES:
        command += ["--exclude", pattern]
    if args.hub_private_repo:
        command.append("--private")
    if getattr(args, "hub_revision", None):
        command += ["--revision", args.hub_revision]
    return shlex.join(command)


def _checkpoint_of_a_trial(output_dir: str | None) -> Path | None:
    """Return a checkpoint in the directory of a trial of `hyperparameter_search`, which the Trainer would push."""
    found = Path(output_dir or "").glob("*/checkpoint-*")
    return next((path for path in found if not path.parent.name.startswith(("_", "checkpoint-"))), None)


def _repository(args: TrainingArguments) -> str:
    """Return the repository that `args` name; without a namespace it belongs to the owner of the token."""
    return args.hub_model_id or Path(args.output_dir).absolute().name


def _explanation(error: BaseException) -> str:
    """Return the messages of an exception and of its first cause, on one line."""
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    messages = dict.fromkeys(" ".join(str(e).split()) or type(e).__name__ for e in (error, cause))
    return " ".join(messages)
