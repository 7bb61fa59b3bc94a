"""What is not published: tokens, keys and passwords, recognized by their names, and paths of the machine."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Tokens of a tokenizer, which are not secret."""

_SECRET_NAME = re.compile(
    rf"(?!({'|'.join(SPECIAL_TOKENS)})$)(.*_)?"
    "(token|(api|access|secret|private)_?key|secret|passwd|credentials?|authorization)|.*password"
)
_TOKEN_OF_A_MODEL = re.compile(r"(?!.*(api|access|auth|hub|bot|refresh|bearer|hf|user|secret|private))(.*_)?token")
"""Names that may be those of a token of a model, `image_token`, and not of a secret alone."""

_SPECIAL_TOKEN = re.compile(r"<\|?[A-Za-z_]{1,30}\|?>|\[[A-Z_]{1,20}\]")
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bgh[a-z]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{22,}|\bsk-[A-Za-z0-9_-]{32,}"
    r"|\b(?i:bearer|authorization: basic) [\w+/=.-]{16,}|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)
"""Tokens of the Hub, of GitHub and of OpenAI, an HTTP header that authorizes, and user and password of an address."""


def is_secret(name: Any, value: Any = "") -> bool:
    """Whether a value of this name is secret: `api_key`, `apiKey`, `X-Api-Key` and the like.

    A number of tokens is not, nor the text of a special token: `max_token=5` and `image_token="<image>"`.
    """
    if not isinstance(name, str):
        return False
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    special = isinstance(value, (int, float)) or (isinstance(value, str) and _SPECIAL_TOKEN.fullmatch(value))
    return bool(_SECRET_NAME.fullmatch(words) and not (special and _TOKEN_OF_A_MODEL.fullmatch(words)))


def without_secrets(value: Any) -> Any:
    """Return a value without its secrets: entries and attributes by their name, and tokens within a text."""
    return _mapped(value, lambda each: _SECRET_TEXT.sub("***", each) if type(each) is str else each, is_secret)


def public_attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, `None` in place of a secret and none within the others."""
    return {name: None if is_secret(name, value) else without_secrets(value) for name, value in vars(owner).items()}


def public_copy(owner: Any) -> Any:
    """Return a copy of an object, such as training arguments, without secrets and paths in its attributes."""
    copied = copy.copy(owner)
    vars(copied).update(without_paths(public_attributes(owner)))
    return copied


def public_when_written(arguments: Any) -> Any:
    """Return a copy of training arguments with all attributes, which as a pickle or JSON has no secrets and paths."""
    copied = copy.copy(arguments)
    vars(copied)["__reduce_ex__"] = public_copy(arguments).__reduce_ex__
    vars(copied)["to_json_string"] = lambda: json.dumps(without_paths(without_secrets(arguments.to_dict())), indent=2)
    return copied


def remove_paths_from_json(path: Path, **changes: Any) -> None:
    """Overwrite a JSON file, if it is there: the last component replaces each absolute path, and `changes` apply."""
    if path.is_file():
        content = {**without_paths(json.loads(path.read_text(encoding="utf-8"))), **changes}
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def without_paths(value: Any) -> Any:
    """Return a value in which the last component replaces each absolute path; a text `/a` without a folder stays."""
    return _mapped(value, _last_part_of_path, lambda name, value: False)


def _last_part_of_path(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        return value
    path = Path(str(value).removeprefix("file://"))
    is_command = isinstance(value, str) and value.count("/") == 1  # "/no_think"
    return path.name if path.is_absolute() and path.name and not is_command else value


def _mapped(
    value: Any, change: Callable[[Any], Any], left_out: Callable[[Any, Any], bool], around: tuple[int, ...] = ()
) -> Any:
    """Change what lies in containers and in plain objects, and leave out entries and attributes by their name.

    `around` has the ids of the objects that the value is in; one that contains itself is left as it is.
    """
    if id(value) in around:
        return value
    inside = partial(_mapped, change=change, left_out=left_out, around=(*around, id(value)))
    if isinstance(value, dict):
        return {key: inside(each) for key, each in value.items() if not left_out(key, each)}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(inside, value))
    if isinstance(value, SimpleNamespace) or (is_dataclass(value) and not isinstance(value, type)):
        copied = copy.copy(value)
        for name in list(vars(value) if hasattr(value, "__dict__") else value.__dataclass_fields__):
            each = getattr(value, name)
            object.__setattr__(copied, name, None if left_out(name, each) else inside(each))
        return copied
    return change(value)
