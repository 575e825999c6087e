"""Finds the runs and sweeps that name another run as their origin."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.core.files.read_file import DamagedFileError, read_bytes
from experiments.sweep.ledger import Ledger
from experiments.trial.initial_weights import get_initial_weights, list_sources
from experiments.trial.run_files import read_provenance

ROLES = {"continues": "continues it", "reproduces": "reproduces it"}
"""What a run does with the run that a key of its provenance names."""


def find_dependents(folders: Collection[Path], runs_dir: Path) -> dict[Path, list[str]]:
    """Find what depends on runs and sweeps that shall be deleted.

    A run keeps copies of the weights that it began with, so it still works without its origin. What it loses is the record
    of where it came from.

    Args:
        folders: of the runs and sweeps; what is inside them does not count.
        runs_dir: where to look.

    Returns:
        For each folder, lines such as ``run 'abc' continues it``.
    """
    found: dict[Path, list[str]] = {folder: [] for folder in folders}
    origins = {folder: list(_list_origins(folder)) for folder in folders}
    texts = {text.encode() for listed in origins.values() for run, key in listed for text in (run.name, key) if text}
    patterns = ("*/*/provenance.yaml", "*/templates.json", "*/ledger.jsonl")
    for path in sorted(path for pattern in patterns for path in runs_dir.glob(pattern)):
        if any(path.is_relative_to(folder) for folder in folders):
            continue
        with suppress(DamagedFileError):
            content = read_bytes(path)
            if not any(text in content for text in texts):  # nearly all: parsing every file would take seconds
                continue
            user = path.parent
            for folder, listed in origins.items():
                lines: list[str] = []
                if path.name == "ledger.jsonl":
                    lines += _describe_reuse(user, folder)
                for run, key in listed:
                    lines += _describe_uses(user, run, key) if path.suffix == ".yaml" else ()
                    lines += _describe_base(content, user, run) if path.suffix == ".json" else ()
                found[folder] += [line for line in dict.fromkeys(lines) if line not in found[folder]]
    return found


def _list_origins(folder: Path) -> Iterator[tuple[Path, str]]:
    """The runs in a folder, with their unique keys."""
    for run in [folder] if (folder / "trial.yaml").is_file() else [path.parent for path in folder.glob("*/trial.yaml")]:
        with suppress(DamagedFileError):
            yield run, str(read_provenance(run).get("run_key") or "")


def _describe_uses(user: Path, run: Path, key: str) -> Iterator[str]:
    """How a run uses another one."""
    provenance = read_provenance(user)
    name = f"run '{user.name}'"
    for role, text in ROLES.items():
        link = provenance.get(role)
        if isinstance(link, Mapping) and key and link.get("run_key") == key:
            yield f"{name} {text}"
    if any(Path(str(file)).is_relative_to(run) for file in list_sources(provenance)):
        yield f"{name} starts from its weights"
    if key and provenance.get("run_key") == key and user != run:
        yield f"{name} is a copy of it, with the same run in MLflow"


def _describe_reuse(sweep: Path, folder: Path) -> Iterator[str]:
    """How a sweep uses results of another one."""
    reused = [entry.reused for entry in Ledger(sweep).read().entries.values() if entry.reused]
    if any(Path(name).is_relative_to(folder) for name in reused):
        yield f"sweep '{sweep.name}' reuses results, and its report shows the curves of the trials"


def _describe_base(content: bytes, sweep: Path, run: Path) -> Iterator[str]:
    """How a sweep uses a run: its trials copy the weights when they start."""
    try:
        templates: list[dict[str, Any]] = json.loads(content)
        named = {name for one in templates for name in get_initial_weights(one["config"]).values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    if any(name == run.name or Path(name).absolute().is_relative_to(run) for name in named):
        yield f"the trials of sweep '{sweep.name}' start from its weights"
