"""Keeps secrets out of everything that is written: they come by the environment, at the moment they are needed."""

from __future__ import annotations

import os
import re
from typing import Any

REFERENCE = re.compile(r"\$\{oc\.env:([A-Za-z_][A-Za-z0-9_]*)(?:,([^}]*))?\}")

SECRET_NAMES = re.compile(
    r"(^|_|\.)(password|passwd|secret|api_?key|access_?key|private_?key|secret_?key|credentials?"
    r"|(auth|access|api|bearer|refresh|hf|hub|wandb|github)_?token)(_|$)",
    re.IGNORECASE,
)
SECRET_VALUES = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}"  # JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@"  # user and password in an address
)


def looks_secret(key: str, value: Any) -> bool:
    """True for text that is a password, key or token by its own form or by the name it is given."""
    if not isinstance(value, str) or REFERENCE.fullmatch(value):
        return False
    return bool(SECRET_VALUES.search(value)) or (bool(SECRET_NAMES.search(key)) and value != "")


def resolve(value: Any) -> Any:
    """The value with every `${oc.env:NAME}` and `${oc.env:NAME,default}` replaced by what this machine's environment says.

    Raises:
        KeyError: a variable without a default is not set.
    """
    if isinstance(value, dict):
        return {key: resolve(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolve(inner) for inner in value]
    if not isinstance(value, str) or "${oc.env:" not in value:
        return value
    text = REFERENCE.sub(lambda match: _lookup(match.group(1), match.group(2)), value)
    return os.path.expanduser(text) if text.startswith("~") else text


def _lookup(name: str, default: str | None) -> str:
    if default is not None:
        return os.environ.get(name, default.strip())
    return os.environ[name]
