"""What is not published: tokens, keys and passwords, recognized by their names, and paths of the machine."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Tokens of a tokenizer, which are not secret."""

_SECRET_NAME = re.compile(
    rf"(?!({'|'.join(SPECIAL_TOKENS)})$)(.*_)?"
    "(token|(api|access|secret|private)_?key|secret|passwd|credentials?|authorization)|.*password"
)
_SECRET_TEXT = re.compile(
    r"\b(hf_|gh[a-z]_|sk-)[\w-]{16,}|\b(?i:bearer|basic) [\w+/=.-]{8,}|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)
"""Tokens of the Hub, of GitHub and of OpenAI, an HTTP header that authorizes, and user and password of an address."""


def is_secret(name: Any) -> bool:
    """Whether a value of this name is one to keep to oneself: `api_key`, `apiKey`, `X-Api-Key` and the like."""
    if not isinstance(name, str):
        return False
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return _SECRET_NAME.fullmatch(words) is not None


def without_secrets(value: Any) -> Any:
    """Return a value without its secrets: entries and attributes by their name, and tokens within a text."""
    return _mapped(value, lambda each: _SECRET_TEXT.sub("***", each) if type(each) is str else each, is_secret)


def public_attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, `None` in place of a secret and none within the others."""
    return {name: None if is_secret(name) else without_secrets(value) for name, value in vars(owner).items()}


def without_paths(value: Any) -> Any:
    """Return a value with the last part alone of each absolute path in it."""
    return _mapped(value, _last_part_of_path, lambda name: False)


def _last_part_of_path(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        return value
    path = Path(str(value).removeprefix("file://"))
    return path.name if path.is_absolute() else value


def _mapped(value: Any, change: Callable[[Any], Any], left_out: Callable[[Any], bool]) -> Any:
    """Change what lies in containers and in plain objects, and leave out entries and attributes by their name."""
    if isinstance(value, dict):
        return {key: _mapped(each, change, left_out) for key, each in value.items() if not left_out(key)}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_mapped(each, change, left_out) for each in value)
    if isinstance(value, SimpleNamespace) or (is_dataclass(value) and not isinstance(value, type)):
        copied = copy.copy(value)
        attributes = {
            name: None if left_out(name) else _mapped(each, change, left_out) for name, each in vars(value).items()
        }
        vars(copied).update(attributes)
        return copied
    return change(value)
