"""What a user means by the name of a result: a run, MLflow's id of one, a shared file, a trial.yaml, or overrides."""

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
from experiments.trial.lookup import SHARED, find_run, whole
from experiments.trial.record import CodeRecord, of_experiment, of_trial
from experiments.trial.trial import Trial, trial_id

WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")
MOST_VALUES = 100_000
"""Of a trial.yaml; one of the largest models has some hundred."""


@contextmanager
def subject(word: str, asked: Namespace) -> Iterator[CodeRecord]:
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
        from experiments.config.compose import compose

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


def of_file(path: Path, word: str) -> CodeRecord:
    """The record of a shared file or of a trial.yaml.

    Raises:
        InputError: it is neither.
    """
    if is_shared(path):
        from experiments.results.share.shared_file import read

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
    return CodeRecord(word, identity, config, [], {}, {"files": None})
