"""What is not published: tokens, keys and passwords, recognized by their names, and paths of the machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Tokens of a tokenizer, which are not secret."""

_SECRET = re.compile(
    rf"(?i)(?!({'|'.join(SPECIAL_TOKENS)})$)(.*_)?"
    "(token|(api|access|secret|private)_?key|secret|password|passwd|credentials?)"
)


def is_secret(name: Any) -> bool:
    """Whether the name is that of a token, key or password."""
    return isinstance(name, str) and _SECRET.fullmatch(name) is not None


def without_secrets(value: Any) -> Any:
    """Return a value without the secrets in its mappings, at any depth."""
    if isinstance(value, dict):
        return {key: without_secrets(each) for key, each in value.items() if not is_secret(key)}
    if type(value) in (list, tuple):
        return type(value)(without_secrets(each) for each in value)
    return value


def public_attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, with `None` for each secret, and without secrets in mappings."""
    return {name: None if is_secret(name) else without_secrets(value) for name, value in vars(owner).items()}


def without_paths(value: Any) -> Any:
    """Return a value in which the last component replaces each absolute path."""
    if isinstance(value, dict):
        return {key: without_paths(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(without_paths(each) for each in value)
    if isinstance(value, (str, Path)) and Path(value).is_absolute():
        return Path(value).name
    return value
