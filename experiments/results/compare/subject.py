"""Finds the record that an argument names: a run, an MLflow run id, a shared file, a trial.yaml, or overrides."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import yaml

from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.trial.lookup import SHARED, check_readable, find_run
from experiments.trial.record import RunRecord, record_experiment, record_trial
from experiments.trial.trial import Trial, trial_id

OVERRIDE = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")
MAX_VALUES = 100_000
"""Of a trial.yaml; the largest models have some hundred."""


@contextmanager
def open_record(name: str, args: Namespace) -> Iterator[RunRecord]:
    """The record that a command-line argument names, while the context is open.

    Args:
        name: the argument.
        args: with runs_dir, config_dir and trust.

    Raises:
        InputError: there is no such record, or it cannot be read.
    """
    path = None if _are_overrides(name) else user_path(name)
    if path is not None and path.is_file():
        yield read_record(path, name)
    elif path is None:
        from experiments.config.compose import compose

        experiment = compose(_split(name), config_dirs=args.config_dir, trust=args.trust)
        with record_experiment(experiment, name or "the defaults") as record:
            yield record
    else:
        yield record_trial(find_run(name, Path(args.runs_dir)), name)


def _are_overrides(text: str) -> bool:
    """Whether a text is overrides, or the empty text for the defaults; a file with such a name has priority."""
    if "=" not in text and not text.startswith("~"):
        return not text.strip()
    try:
        return not user_path(text).exists()
    except (InputError, OSError):  # as `~tags.team`, or a long line of overrides
        return True


def _split(text: str) -> list[str]:
    """The overrides in one argument, separated by spaces outside of quotes.

    Raises:
        InputError: a quote is not closed.
    """
    if re.search("['\"]", OVERRIDE.sub("", text)):
        raise InputError([f'{text!r} has a quote that is not closed; write "model=mlp optimizer.lr=0.1"'])
    overrides: list[str] = OVERRIDE.findall(text)
    return [part[1:-1] if part[0] in "'\"" and part[0] == part[-1] else part for part in overrides]


def _values(node: object) -> Iterator[object]:
    """Every node of a document; a node with aliases comes once per alias."""
    yield node
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for value in inner:
        yield from _values(value)


def is_shared(path: Path) -> bool:
    """True for an archive, or a YAML file with the key `lathe_share`."""
    if not path.is_file() or not path.name.endswith(SHARED):
        return False
    return path.name.endswith(SHARED[2:]) or (
        path.name != "trial.yaml"
        and re.search(rb"^lathe_share\s*:", path.read_bytes()[:65536], re.MULTILINE) is not None
    )


def read_record(path: Path, name: str) -> RunRecord:
    """The record of a shared file or of a trial.yaml.

    Raises:
        InputError: the file is neither.
    """
    if is_shared(path):
        from experiments.results.share.shared_file import read

        return replace(read(path).record(), name=name, is_sampled=True)
    if path.name == "trial.yaml" and (path.parent / "provenance.yaml").is_file():
        return record_trial(check_readable(Trial(path.parent.resolve())), name)
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if sum(1 for _ in islice(_values(config), MAX_VALUES + 1)) > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES:,} values")
        if not (isinstance(config, dict) and all(isinstance(config.get(part), dict) for part in ("data", "hardware"))):
            raise ValueError("it lacks data and hardware")
        identity = trial_id(config)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as err:
        reason = " ".join(str(err).split())[:120]
        raise InputError(
            [
                f"{name} is not a run, a shared file or a trial.yaml ({reason}); `lathe share` and `lathe run` write such files"
            ]
        ) from err
    return RunRecord(name, identity, config, [], {}, {"files": None})
