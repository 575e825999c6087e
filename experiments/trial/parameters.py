"""A configuration as flat parameters, within the limits of MLflow."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

# MLflow 3.17: 250 characters a key, 6,000 a parameter's value, 8,000 a tag's value (2026-11-23).
ACTIVE_MARKDOWN = re.compile(r"(\\*)(!(?=\[)|<(?=[A-Za-z/!?]))")
MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 8000


def flatten_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a configuration to its leaves with dotted names; lists stay whole, as JSON text."""
    flat: dict[str, str] = {}

    def walk(prefix: str, node: object) -> None:
        if isinstance(node, dict) and node:
            for key, child in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), child)
        else:
            flat[prefix] = format_param(node)

    walk("", dict(config))
    return clean_keys(flat)


def clean_keys(values: Mapping[str, str]) -> dict[str, str]:
    """Turn all keys into names that MLflow accepts. Where several become the same name, a digest distinguishes them."""
    counts = Counter(map(clean_key, values))
    return {
        clean if counts[clean := clean_key(key)] == 1 or clean == key else _add_digest(clean, key): value
        for key, value in values.items()
    }


def format_param(value: object) -> str:
    """Format a value: text unchanged, everything else as JSON, so None is `null`."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return truncate(mask_password(text), MAX_PARAM)


@lru_cache(maxsize=4096)
def clean_key(key: str) -> str:
    """Turn a key into a name that MLflow accepts; most keys stay unchanged."""
    clean = re.sub(r"[^/\w.\- :]", "_", key)
    if posixpath.normpath(clean) != clean or clean.startswith(("/", "..")) or clean == ".":
        clean = clean.replace("/", "_").replace("..", "__") or "_"
        clean = "_" if clean == "." else clean
    return _add_digest(clean, key) if len(clean) > MAX_KEY else clean


def _add_digest(clean: str, key: str) -> str:
    return f"{clean[: MAX_KEY - 9]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def mask_password(text: str) -> str:
    """Mask the user and password of every URI in a text."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def make_inert(markdown: str) -> str:
    r"""Markdown without images and HTML: a page that shows it would load them from any server. ``![`` becomes ``\![``."""
    return ACTIVE_MARKDOWN.sub(lambda match: match[1] + ("" if len(match[1]) % 2 else "\\") + match[2], markdown)


def truncate(text: str, limit: int = MAX_TAG) -> str:
    """Shorten a text to a limit of MLflow; the default is that of a tag."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
