"""Finds secrets, which must not be written to files, and resolves references to environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

# A default contains no reference, so the innermost of nested references matches first.
REFERENCE = re.compile(r"\$\{oc\.env:([A-Za-z_][A-Za-z0-9_]*)(?:,([^${}]*))?\}")
MAX_DEPTH = 5

SECRET_NAMES = re.compile(
    r"(^|_|\.)(password|passwd|passphrase|secret|api_?key|access_?key|private_?key|secret_?key|credentials?"
    r"|(auth|access|api|bearer|refresh|hf|hub|wandb|github)_?token)(?!_(file|path|env|name|var)\b)(_|$)",
    re.IGNORECASE,
)
SECRET_VALUES = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}"  # JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\bnpm_[A-Za-z0-9]{20,}|\b[sr]k_(live|test)_[A-Za-z0-9]{10,}"
    r"|[?&](token|key|api_key|password|secret)=[^&\s\"'${]{8,}"
    r"|\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{1,100}:[^\s/@]{1,200}@"  # user and password in an address
)
# A line of a file that assigns a secret: `api_key: 0123...`, `PASSWORD = "..."`, but no call and no reference.
SECRET_LINES = re.compile(  # every repetition is bounded, because some files are one long line
    r"""(?:password|passwd|passphrase|secret|api_?key|access_?key|private_?key|(?:auth|access|api|bearer|refresh)_?token)
    \w{0,30}["']?[ \t]{0,8}[:=][ \t]{0,8}
    (?:(["'])[^"'\s${]{8,200}\1|(?=\S{0,200}\d)[A-Za-z0-9+/_\-]{12,200}={0,2}[ \t]*$)""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
LONG_TOKEN = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])[^\s/]{16,}")


def has_secret(text: str) -> bool:
    """Whether the text of a file contains a password, key or token, judged by its form or by its name."""
    return bool(SECRET_VALUES.search(text) or SECRET_LINES.search(text))


def is_secret(key: str, value: Any) -> bool:
    """Whether a value is a password, key or token, judged by its form or by its key.

    A reference to the environment is no secret, but the text around it and its default can be one.
    """
    if not isinstance(value, str):
        return False
    text = _replace(value, lambda name, default: "" if default in (None, "null", "''") else default)
    if re.search(r"(^|\.)token$", key, re.IGNORECASE) and LONG_TOKEN.fullmatch(text):
        return True
    return bool(SECRET_VALUES.search(text)) or (bool(SECRET_NAMES.search(key)) and text != "")


def find_secret_keys(value: Any, key: str = "") -> Iterator[str]:
    """The dotted keys of a configuration whose values are secrets."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from find_secret_keys(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from find_secret_keys(inner, f"{key}[{index}]")
    elif is_secret(key, value):
        yield key


def resolve(value: Any) -> Any:
    """Replace every `${oc.env:NAME}` and `${oc.env:NAME,default}` by the value of the environment variable.

    Raises:
        KeyError: a variable without a default is not set.
    """
    if isinstance(value, dict):
        return {key: resolve(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolve(inner) for inner in value]
    if not isinstance(value, str) or "${oc.env:" not in value:
        return value
    whole = REFERENCE.fullmatch(value)
    if whole and whole.group(2) == "null" and whole.group(1) not in os.environ:
        return None
    text = _replace(value, _lookup)
    return os.path.expanduser(text) if text.startswith("~") else text


def _replace(text: str, by: Callable[[str, str | None], str]) -> str:
    """Replace references, the innermost first."""
    for _ in range(MAX_DEPTH):
        replaced = REFERENCE.sub(lambda match: by(match.group(1), match.group(2)), text)
        if replaced == text:
            break
        text = replaced
    return text


def _unquoted(default: str) -> str:
    if len(default) > 1 and default[0] == default[-1] and default[0] in "'\"":
        return default[1:-1].replace(f"\\{default[0]}", default[0])
    return default


def _lookup(name: str, default: str | None) -> str:
    value = os.environ.get(name)
    if value is None and default is None:
        raise KeyError(name)
    return value or _unquoted((default or "").strip())  # as ${NAME:-default} in a shell
