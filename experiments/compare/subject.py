"""What a user means by the name of a result: a run, MLflow's id of one, a shared file, a trial.yaml, or overrides."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from experiments.compare.record import Record, of_experiment, of_trial
from experiments.faults import InputError
from experiments.trial import Trial, find, trial_id

MLFLOW_ID = re.compile(r"[0-9a-f]{6,32}")
WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")
MOST_VALUES = 100_000
"""Of a trial.yaml; one of the largest models has some hundred."""
SHARED = (".yaml", ".yml", ".tar.gz", ".tgz")


@contextmanager
def subject(word: str, asked: Namespace) -> Iterator[Record]:
    """The record that a word of the command line names, while the context is open.

    Args:
        word: what was typed.
        asked: with runs_dir, config_dir and trust.

    Raises:
        InputError: it names nothing, or nothing that can be read.
    """
    path = Path(word).expanduser()
    if path.is_file():
        yield of_file(path, word)
    elif _are_overrides(word, path):
        from experiments.compose import compose

        experiment = compose(_words(word), config_dirs=asked.config_dir, trust=asked.trust)
        with of_experiment(experiment, word or "the defaults") as found:
            yield found
    else:
        yield of_trial(find_run(word, Path(asked.runs_dir)), word)


def _are_overrides(word: str, path: Path) -> bool:
    return not word.strip() or (not path.exists() and ("=" in word or word.startswith("~")))


def _words(word: str) -> list[str]:
    """The overrides in one quoted word: what spaces part, but for those within quotes, which Hydra's grammar keeps.

    Raises:
        InputError: a quote is not closed.
    """
    if re.search("['\"]", WORD.sub("", word)):
        raise InputError([f'{word!r} has a quote that is not closed; write "model=mlp optimizer.lr=0.1"'])
    words: list[str] = WORD.findall(word)
    return [one[1:-1] if one[0] in "'\"" and one[0] == one[-1] else one for one in words]


def find_run(word: str, runs_dir: Path) -> Trial:
    """The run that a user names by folder, by id or the id's beginning, or by the id that MLflow gave it.

    Raises:
        InputError: no run, or more than one, is so named.
    """
    try:
        return whole(find(word, runs_dir))
    except InputError as err:
        if word.endswith(SHARED) and not Path(word).expanduser().exists():
            raise InputError([f"there is no file {word}; name one that `lathe share` wrote, or a run"]) from err
        if not MLFLOW_ID.fullmatch(word):
            raise
        found = {folder for run_id, folder in _mlflow_runs(runs_dir) if run_id.startswith(word)}
        if not found:
            raise
        if len(found) > 1:
            names = ", ".join(sorted(folder.name for folder in found))
            raise InputError(
                [f"MLflow's run '{word}' is not unique in {runs_dir}: {names}; write more of it"]
            ) from None
        return whole(Trial(found.pop().resolve()))


def whole(trial: Trial) -> Trial:
    """A run whose files can be read.

    Raises:
        InputError: they cannot; other hands have been at them.
    """
    try:
        needed = (trial.provenance["trial_id"], trial.config["data"]["_target_"], trial.config["hardware"]["nodes"])
        assert all(needed), needed
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AssertionError) as err:
        reason = f"{type(err).__name__}: {' '.join(str(err).split())[:200]}"
        raise InputError([f"the run in {trial.folder} is damaged ({reason}); restore its files"]) from err
    return trial


def _mlflow_runs(runs_dir: Path) -> Iterator[tuple[str, Path]]:
    """MLflow's id and the folder of every run that is in a store."""
    for path in runs_dir.glob("*/*/sync.json"):
        if (path.parent / "trial.yaml").is_file():
            yield mlflow_ids(Trial(path.parent)).get("run_id", ""), path.parent


def mlflow_ids(trial: Trial) -> dict[str, str]:
    """The run_id and experiment_id that MLflow knows a run by; none where it is in no store."""
    try:
        told: dict[str, Any] = json.loads((trial.folder / "sync.json").read_text())
        return {key: str(told[key]) for key in ("run_id", "experiment_id") if told.get(key)}
    except (OSError, ValueError, AttributeError):
        return {}


def _values(node: object) -> Iterator[object]:
    """Everything in a document, as often as its aliases repeat it."""
    yield node
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for value in inner:
        yield from _values(value)


def is_shared(path: Path) -> bool:
    """Whether a file is one that `lathe share` has written, or means to be."""
    if not path.is_file() or not path.name.endswith(SHARED):
        return False
    return path.name.endswith(SHARED[2:]) or (
        path.name != "trial.yaml"
        and re.search(rb"^lathe_share\s*:", path.read_bytes()[:65536], re.MULTILINE) is not None
    )


def of_file(path: Path, word: str) -> Record:
    """The record of a shared file or of a trial.yaml.

    Raises:
        InputError: it is neither.
    """
    if is_shared(path):
        from experiments.share.shared import read

        return replace(read(path).record(), name=word, is_sampled=True)
    if path.name == "trial.yaml" and (path.parent / "provenance.yaml").is_file():
        return of_trial(whole(Trial(path.parent.resolve())), word)
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if sum(1 for _ in islice(_values(config), MOST_VALUES + 1)) > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values")
        if not (isinstance(config, dict) and all(isinstance(config.get(part), dict) for part in ("data", "hardware"))):
            raise ValueError("it lacks data and hardware")
        identity = trial_id(config)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as err:
        reason = " ".join(str(err).split())[:120]
        raise InputError(
            [f"{word} is no run, shared file or trial.yaml ({reason}); `lathe share` and `lathe run` write such files"]
        ) from err
    return Record(word, identity, config, [], {}, {"files": None})
