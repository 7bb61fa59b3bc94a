"""What a push to the Hub needs to say when the Hub does not take it."""

from __future__ import annotations

import shlex
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from transformers import TrainingArguments

_REFUSED = (401, 403)
_NOT_PUSHED = ("_*", "*checkpoint-*")


class HubError(OSError):
    """The Hub did not create the repository, or did not take the push; the message says what to do.

    `__cause__` is the exception of `huggingface_hub`. A model that was trained is on disk.
    """


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


def not_reached(args: TrainingArguments, error: BaseException) -> str:
    """Return the message for a repository that could not be created or written to."""
    return (
        f"The Hub at {constants.ENDPOINT} does not open the repository {repository(args)!r} for a push: "
        f"{explanation(error)}\n"
        "Log in with `hf auth login`, or set HF_TOKEN to a token that may write. "
        "Without push_to_hub the run needs no Hub."
    )


def not_pushed(args: TrainingArguments, repo: str | None, error: BaseException) -> str:
    """Return the message for a model that is trained and saved and could not be pushed."""
    return (
        f"The model is trained and saved in {args.output_dir}, but not pushed to {repo or repository(args)}: "
        f"{explanation(error)}\n"
        f"Push it later, after `hf auth login` if the token was refused, with\n    {push_command(args, repo)}"
    )


def push_command(args: TrainingArguments, repo: str | None = None) -> str:
    """Return the command that pushes what `trainer.push_to_hub()` pushes.

    Args:
        args: says which directory, which revision, and whether the repository is private.
        repo: `namespace/name`, where it is known; else the name in `args`.
    """
    command = ["hf", "upload", repo or repository(args), str(args.output_dir), "."]
    for pattern in _NOT_PUSHED:
        command += ["--exclude", pattern]
    if args.hub_private_repo:
        command.append("--private")
    if getattr(args, "hub_revision", None):
        command += ["--revision", args.hub_revision]
    return shlex.join(command)


def repository(args: TrainingArguments) -> str:
    """Return the name of the repository that `args` ask for; without a namespace it is one of the token's owner."""
    return args.hub_model_id or Path(args.output_dir).absolute().name


def explanation(error: BaseException) -> str:
    """Return the messages of an exception and of its first cause, on one line."""
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    messages = dict.fromkeys(" ".join(str(e).split()) or type(e).__name__ for e in (error, cause))
    return " ".join(messages)
