"""Finds the sweep that has the name of a new one: the same sweep is continued, and another one is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.core import lock
from experiments.core.errors import InputError
from experiments.core.format import format_value
from experiments.core.runs_dir import SWEEPS_LOCK, make_ignored
from experiments.sweep.spec import SweepSpec
from experiments.sweep.spec_defaults import DEFAULTS
from experiments.sweep.sweep import Sweep, format_reference
from experiments.sweep.templates import Templates
from experiments.trial.trial import EXCLUDED, trial_id

if TYPE_CHECKING:
    from experiments.sweep.create import SweepDraft

NEUTRAL = ("name", "description", "reuse")
"""Keys of a spec that do not make another sweep."""
CAN_GROW = ("num_seeds", "budget", "max_attempts", "space")
MAX_DIFFERENCES = 3


@contextmanager
def lock_names(runs_dir: Path) -> Iterator[None]:
    """Let one command at a time create or continue sweeps in a folder of runs.

    Raises:
        InputError: the folder cannot be written, or another command keeps the lock.
    """
    with ExitStack() as stack:
        try:
            make_ignored(runs_dir)
            stack.enter_context(lock.locked_within_limits(runs_dir / SWEEPS_LOCK))
        except lock.LocksUnsupportedError:  # the ledger of the sweep reports it
            pass
        except OSError as err:
            reason = str(err) if isinstance(err, lock.LockHeldError) else f"it cannot be written: {err.strerror}"
            raise InputError([f"runs_dir={runs_dir}: {reason}; or choose another runs_dir"]) from err
        yield


def find_same(draft: SweepDraft, runs_dir: Path) -> Sweep | None:
    """The newest sweep with the name, the spec, the configurations and the code of a draft; None if no sweep has its name.

    Raises:
        InputError: the user chose the name, and every sweep of that name differs.
    """
    known = _list_by_name(draft.spec.name, runs_dir, draft.templates.trust)
    problems: list[str] = []
    for sweep in known:
        differences = list(_find_differences(draft, sweep))
        if not differences:
            return sweep
        problems.append(_explain(sweep, differences, draft))
    if problems and draft.spec.is_name_chosen:
        raise InputError(problems[:1], f"the sweep '{draft.spec.name}'")
    return None


def _list_by_name(name: str, runs_dir: Path, trust: tuple[str, ...]) -> list[Sweep]:
    """The sweeps that were started with a name, the newest first."""
    found: dict[int, Sweep] = {}
    for path in runs_dir.glob(f"{name}*/sweep.yaml"):
        number = path.parent.name.removeprefix(name) or "-1"
        if number[0] == "-" and number[1:].isdecimal() and Sweep(path.parent).spec.get("name") == name:
            found[int(number[1:])] = Sweep(path.parent.resolve(), trust)
    return [found[number] for number in sorted(found, reverse=True)]


def _find_differences(draft: SweepDraft, sweep: Sweep) -> Iterator[tuple[str, str]]:
    """What differs from the draft: the key of the spec, "config" or "code", and a description."""
    mine: dict[str, Any] = yaml.safe_load(draft.spec.to_yaml())
    other: dict[str, Any] = yaml.safe_load(SweepSpec.load(sweep.folder).to_yaml())
    are_same = True
    for key in mine:
        if key not in NEUTRAL and mine[key] != (value := other.get(key, DEFAULTS[key])):
            are_same = False
            yield from ((key, text) for text in _describe_key(key, mine[key], value))
    if are_same and (text := _compare_configs(draft.templates, sweep.templates())) is not None:
        yield "config", text
    elif sweep.provenance.get("code_sha256") != draft.code_sha256:
        yield "code", "other code than today"


def _describe_key(key: str, mine: Any, other: Any) -> Iterator[str]:
    if key == "base":
        added = [text for text in mine if text not in other]
        removed = [text for text in other if text not in mine]
        new, old = " ".join(map(str, added)), " ".join(map(str, removed))
        if new and old:
            yield f"{old} instead of {new}"
        else:
            yield f"no {new}" if new else f"also {old}" if old else "its overrides in another order"
    elif isinstance(mine, dict) and isinstance(other, dict):
        prefix = "" if key == "space" else f"sweep.{key}."
        for name in dict.fromkeys([*mine, *other]):
            if mine.get(name) != other.get(name):
                yield f"{prefix}{name}={format_value(other.get(name))} instead of {format_value(mine.get(name))}"
    else:
        yield f"sweep.{key}={format_value(other)} instead of {format_value(mine)}"


def _compare_configs(mine: Templates, other: Templates) -> str | None:
    """A value that the same overrides compose today and did not then; None if there is none that counts."""
    for template in mine.all:
        twin = next((one for one in other.all if one.choices == template.choices), None)
        if twin is None:
            return f"no configuration for {format_value(template.choices)}"
        if trial_id(twin.config) != trial_id(template.config):
            before, now = dict(_flatten(twin.config)), dict(_flatten(template.config))
            for key in dict.fromkeys([*now, *before]):
                if before.get(key) != now.get(key) and not _is_excluded(key):
                    return f"{key}={format_value(before.get(key))} instead of {format_value(now.get(key))}"
    return None


def _is_excluded(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in EXCLUDED)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _explain(sweep: Sweep, differences: list[tuple[str, str]], draft: SweepDraft) -> str:
    """Why a sweep cannot go on as the draft, and what to do."""
    texts = [text for _, text in differences]
    more = f" and {len(texts) - MAX_DIFFERENCES} more" if len(texts) > MAX_DIFFERENCES else ""
    reference = format_reference(sweep)
    kinds = {kind for kind, _ in differences}
    resume = f"`lathe resume {reference}` to continue that one"
    if kinds <= {*CAN_GROW}:
        resume = f"`lathe resume {reference} KEY=VALUE` to add values, seeds or budget to that one"
    return (
        f"sweep.name={draft.spec.name} is the name of the sweep in {sweep.folder}, which has "
        f"{', '.join(texts[:MAX_DIFFERENCES])}{more}; "
        f"write sweep.name=OTHER, --new for a second sweep of this name, or {resume}"
    )
