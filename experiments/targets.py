"""Which code a configuration may name: the allow-list of `_target_`."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import yaml

from experiments.faults import InputError

OWN = ("modules.", "launchers.")
TORCH = (
    "torch.optim.adadelta.", "torch.optim.adagrad.", "torch.optim.adam.", "torch.optim.adamax.", "torch.optim.adamw.",
    "torch.optim.asgd.", "torch.optim.nadam.", "torch.optim.radam.", "torch.optim.rmsprop.", "torch.optim.rprop.",
    "torch.optim.sgd.", "torch.nn.modules.activation.", "torch.nn.modules.loss.",
)  # fmt: skip


def settings_file() -> Path:
    """The user's own settings on this machine; what it trusts goes with no configuration that is shared."""
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "lathe" / "settings.yaml"


def trusted(packages: Collection[str] = ()) -> tuple[str, ...]:
    """The packages beyond the house's own that may be named: of `--trust` and of the user's settings.

    Raises:
        InputError: the settings are no YAML map with a list of names under ``trust``.
    """
    path = settings_file()
    if not path.is_file():
        return tuple(packages)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise InputError(
            [f"{path} is no valid YAML: {getattr(err, 'problem', None) or err}; write `trust: [mypackage]`"]
        ) from err
    listed = settings.get("trust", []) if isinstance(settings, dict) else settings
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise InputError([f"{path}: trust={listed!r} is no list of packages; write `trust: [mypackage]`"])
    return tuple(dict.fromkeys([*packages, *listed]))


def is_allowed(target: str, trust: Collection[str] = ()) -> bool:
    """True where ``target`` lies in the house, in the short list of torch paths or in a trusted package."""
    return target.startswith((*OWN, *TORCH, *(f"{package}." for package in trust)))


def is_own(target: str) -> bool:
    """True where ``target`` is the house's or torch's, so that no one was asked to trust it."""
    return target.startswith((*OWN, *TORCH))
