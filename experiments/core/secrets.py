"""Finds secrets, which must not be written to files, and resolves references to environment variables."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from experiments.core.secret_formats import SECRET_LINES, SECRET_VALUES

# A default contains no reference, so the innermost of nested references matches first.
REFERENCE = re.compile(r"\$\{oc\.env:([A-Za-z_][A-Za-z0-9_]*)(?:,([^${}]*))?\}")
MAX_DEPTH = 5

SECRET_NAMES = re.compile(
    r"(?:^|_)(?:\w*password|\w*passwd|passphrase|pwd|secrets?|credentials?|dsn|webhooks?|cookies?|authorization|basic_?auth"
    r"|(?:api|access|private|secret|account|encryption|signing|ssh|gpg|deploy|license|master|storage|service)_?key"
    r"|(?:auth|oauth|access|api|bearer|refresh|session|personal|deploy|bot|id|jwt|private|hf|hub|wandb|gh|github|gitlab"
    r"|slack|discord|telegram|tracking|npm|pypi|vault|openai|kaggle|aws|azure|gcp|comet|neptune)_?token)"
    r"(?!_(?:file|path|env|name|var|dir|type|size|length|count)(?:_|$))(?:_|$)",
    re.IGNORECASE,
)
"""Names of keys of a configuration that hold a secret. A model has keys such as pad_token and key, so these do not count."""
SECRET_PARTS = re.compile(
    r"TOKEN(?!IZER)|PASS(?!IVE|ES|THROUGH)|PWD|(?<!MON)KEY(?!BOARD|MAP|WORD|STONE|FRAME)|SECRET(?!ARY)|AUTH(?!OR)|DSN|CREDENTIAL"
    r"|CRED(?=_|$)|WEBHOOK|COOKIE|SIGNATURE|LICENSE|BEARER|JWT|(?<![A-Z])(?:PIN|SAS)(?![A-Z])",
    re.IGNORECASE,
)
"""Parts of the name of an environment variable whose value is a secret."""
NO_SECRETS = ("PWD", "OLDPWD", "SSH_AUTH_SOCK", "XAUTHORITY", "SSH_ASKPASS", "GIT_ASKPASS")
IDENTIFIERS = re.compile(
    r"(?:^|_)(?:SHA\d*|COMMIT|REV|REVISION|HASH|DIGEST|UUID|ID|VERSION|PATH|FLAGS|COLORS)(?:_|$)", re.IGNORECASE
)
"""Names of variables with long random values that are no secrets."""
PLAIN_WORDS = {
    "true", "false", "none", "null", "basic", "bearer", "digest", "enabled", "disabled", "always", "never", "default", "local",
    "required", "optional", "plain", "login", "simple", "token", "password", "secret", "admin", "empty",
}  # fmt: skip
MIN_SECRET, MIN_RANDOM, MIN_ENTROPY, MIN_TURNS = 5, 20, 3.5, 0.2
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
    name = re.sub(r"\[\d+\]$", "", key).rpartition(".")[2].replace("-", "_")
    if name.lower() == "token" and LONG_TOKEN.fullmatch(text):
        return True
    return bool(SECRET_VALUES.search(text)) or (bool(SECRET_NAMES.search(name)) and text != "")


def find_secret_variables(environment: Mapping[str, str]) -> set[str]:
    """The secrets in environment variables: by the name of the variable, by form, and long random values of any variable.

    Values of fewer than 5 characters, plain words such as ``basic``, numbers of fewer than 8 digits, and paths do not count.
    """
    secrets: set[str] = set()
    for name, value in environment.items():
        text = value.strip()
        try:
            parts = urlsplit(text)
            secrets |= {part for part in (parts.password, unquote(parts.password or "")) if part}
        except ValueError:  # not an address
            parts = None
        is_path = text.startswith(("/", "~", "./", "../"))
        is_plain = text.lower() in PLAIN_WORDS or (text.isdecimal() and len(text) < 8) or len(text) < MIN_SECRET
        if name in NO_SECRETS or is_path or is_plain or not text:
            continue
        if (
            SECRET_PARTS.search(name)
            or SECRET_VALUES.search(text)
            or (not IDENTIFIERS.search(name) and _is_random(text))
        ):
            lines = [line.strip() for line in text.splitlines()]
            secrets |= {text, quote(text, safe="")} | {line for line in lines if len(line) >= MIN_RANDOM}
    return {secret for secret in secrets if len(secret) >= MIN_SECRET}


def _is_random(text: str) -> bool:
    """True for one long word of high entropy whose small letters, capitals and digits take turns; ``a-long-name-2`` is none."""
    if len(text) < MIN_RANDOM or not re.fullmatch(r"[A-Za-z0-9_+/=.~!@#$%^&*-]+", text) or text.count("/") > 1:
        return False
    counts = [text.count(character) / len(text) for character in set(text)]
    entropy = -sum(share * math.log2(share) for share in counts)
    turns = re.findall(r"[a-z](?=[A-Z0-9])|[A-Z](?=[a-z0-9])|[0-9](?=[A-Za-z])", text)
    return entropy >= MIN_ENTROPY and len(turns) >= len(text) * MIN_TURNS and bool(re.search(r"\d", text))


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
