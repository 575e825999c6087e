"""The question of a sweep: read from YAML and overrides, checked against its closed schema. Imports neither torch nor Optuna."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

import sweeps
from experiments.config import options
from experiments.config.rules.base import ConfigView
from experiments.config.source_map import SourceMap, shown_path
from experiments.config.sweep_values import SweepValues
from experiments.config.validate import Validation
from experiments.core import renamed
from experiments.core.errors import ConfigError, InputError, did_you_mean
from experiments.core.secrets import find_secret_keys, is_secret
from experiments.sweep.space import (
    Choice,
    Dimension,
    Space,
    as_yaml,
    choices_of_groups,
    fixed,
    joined,
    keys,
    points,
    replaced,
    rewritten,
    samples,
    size,
    varied,
)
from experiments.sweep.space_parser import SpaceParser, explained, parse
from experiments.sweep.templates import read_spec

HOUSE = Path(sweeps.__file__).parent
SCHEMA = "experiments.config.schema.SweepSchema"
FILE = "sweep.yaml"
DEFAULTS: dict[str, Any] = {
    "name": None, "description": None, "base": [], "space": {}, "points": [],
    "strategy": {"name": "grid", "seed": 0, "startup_points": 10}, "pruner": None,
    "metric": "val/accuracy_top1", "mode": "max", "num_seeds": 1,
    "budget": {"max_points": None, "wall_h": None, "device_h": None}, "max_attempts": 5, "reuse": False,
}  # fmt: skip
FACTOR = 3
"""Of a pruner that says nothing else."""
EXTENDABLE = ("description", "num_seeds", "budget", "max_attempts", "reuse")
"""Keys that may change once a sweep has begun: what its trials are stays."""
MOST_NAMED = 60


@dataclass(frozen=True)
class SweepSpec:
    """What is values, checked and whole."""

    values: dict[str, Any]
    """By the keys of `experiments.config.schema.SweepSchema`, every one of them, in plain values; the space as it was frozen."""
    space: Space

    @property
    def name(self) -> str:
        return str(self.values["name"])

    @cached_property
    def keys(self) -> list[str]:
        """What varies from point to point."""
        listed = (key for point in self._listed_points() for key in point)
        return keys(self.space) or list(dict.fromkeys(listed))

    def count_points(self) -> int | None:
        """How many points there will be, as far as that is known."""
        most = self.values["budget"]["max_points"]
        if self.values["strategy"]["name"] == "list":
            count: int | None = len(self.values["points"])
        else:
            count = size(self.space) if self.values["strategy"]["name"] == "grid" else most
        return count if most is None or count is None else min(count, most)

    def preview_points(self) -> Iterator[dict[str, Any]]:
        """The points that are known before one has run; of a strategy that is values, a few of those that it may choose."""
        name, most = self.values["strategy"]["name"], self.values["budget"]["max_points"]
        if name == "grid":
            return islice(points(self.space), most)
        if name == "list":
            return islice(self._listed_points(), most)
        if name == "random":
            from experiments.sweep.samplers import draw_random_points

            return iter(draw_random_points(self.space, most, self.values["strategy"]["seed"]))
        return samples(self.space)

    def choices(self, groups: Mapping[str, Any]) -> list[dict[str, str]]:
        """Every combination of options of groups that a point can have; of each one configuration is composed."""
        if self.values["strategy"]["name"] != "list":
            return choices_of_groups(self.space, groups)
        found = [{key: value for key, value in point.items() if key in groups} for point in self._listed_points()]
        distinct = {tuple(sorted(one.items())): one for one in found}
        return sorted(distinct.values(), key=len, reverse=True)

    def _listed_points(self) -> Iterator[dict[str, Any]]:
        from experiments.config.overrides import read_override

        return (dict(read_override(typed) for typed in overrides) for overrides in self.values["points"])

    def to_yaml(self) -> str:
        """The question as YAML, which says the same whatever becomes of the files that it was read from."""
        return yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)

    @classmethod
    def load(cls, folder: Path) -> SweepSpec:
        """The question of a sweep that was begun, from its folder."""
        values = read_spec(folder)
        values["strategy"].pop("storage", None)  # of sweeps begun before the ledger held all that a strategy knows
        return cls(values, parse(values["space"]))

    def extend(self, overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> SweepSpec:
        """The question with further values, points, seeds or budget, for a sweep that was begun.

        Args:
            overrides: ``optimizer.lr=0.3,1`` adds values and ``optimizer.lr=0.3`` one; of ``sweep.`` the keys `EXTENDABLE`.
            config_dirs: folders with further groups and options.

        Raises:
            InputError: something else is to change, which only another sweep can.
        """
        if not overrides:
            return self
        draft = _SpecDraft.of(deepcopy(self.values), options.groups(options.user_folders(config_dirs)))
        draft.space, draft.has_begun = self.space, True
        for typed in overrides:
            draft.override(typed)
        name = self.values["strategy"]["name"]
        if name in ("cmaes", "gp") and draft.space != self.space:
            draft.problems.append(
                f"sweep.strategy.name={name} has measured this space; start another sweep for another"
            )
        return draft.finish(may_be_single=True)


@dataclass
class _SpecDraft:
    """A question on the way; problems gather until nothing more can be found out."""

    values: dict[str, Any]
    groups: dict[str, dict[str, Path]]
    origins: SourceMap
    space: Space = field(default_factory=dict)
    has_begun: bool = False
    """Whether there are trials already, to which others are added."""
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, node: dict[str, Any], groups: dict[str, dict[str, Path]], origins: SourceMap | None = None
    ) -> _SpecDraft:
        """From what a file says."""
        draft = cls(node, groups, origins or SourceMap())
        for name in ("strategy", "pruner"):
            if isinstance(node.get(name), str):  # by its name alone
                node[name] = {"name": node[name]}
                for known in (draft.origins.texts, draft.origins.places):
                    if f"sweep.{name}" in known:
                        known[f"sweep.{name}.name"] = known[f"sweep.{name}"]
        if isinstance(node.get("space"), dict):
            reader = SpaceParser(groups, draft.origins, "sweep.space")
            draft.space = reader.space(node["space"])
            draft.problems += reader.problems
            node["space"] = {}
        return draft

    def override(self, typed: str) -> None:
        """Take one override in: it is of the spec, of the space, or joins what all trials share."""
        if typed.startswith("~"):
            self._remove(typed)
            return
        from experiments.config.overrides import read_override

        name, equals, text = typed.partition("=")
        masked = f"{name}=***" if equals and is_secret(name.lstrip("+"), text) else typed
        try:
            key, value = read_override(typed)
        except InputError as err:
            self.problems.append(explained(err, text, masked))
            return
        if key == "sweep" or key.startswith("sweep."):
            self._set(key, value, masked)
        elif isinstance(value, SweepValues):
            self._vary(key, value, masked)
        elif not self.has_begun:
            self.space = fixed(self.space, key, value)
            self._base().append(typed)
        elif key in keys(self.space):
            self.space = varied(self.space, key, Choice((value,)), joined)
        else:
            self.problems.append(f"{masked}: all trials share {key}, and some have begun; start another sweep")

    def _base(self) -> list[Any]:
        base = self.values.setdefault("base", [])
        return base if isinstance(base, list) else []

    def _remove(self, typed: str) -> None:
        key = typed.lstrip("~").partition("=")[0]
        if self.has_begun or key == "sweep" or key.startswith("sweep."):
            way_out = "start another sweep" if self.has_begun else f"write `{key}=null` or another value"
            self.problems.append(f"{typed} takes away what must stand; {way_out}")
        elif key in keys(self.space):
            self.space = rewritten(self.space, key, lambda part: {})
        else:
            self._base().append(typed)

    def _vary(self, key: str, written: SweepValues, typed: str) -> None:
        reader = SpaceParser(self.groups)
        part = reader.written(key, written, typed)
        self.problems += reader.problems
        if part is None:
            return
        join: Callable[[Dimension, Dimension], Dimension] = joined if self.has_begun else replaced
        self.space = varied(self.space, key, part, join)
        if not self.has_begun and isinstance(self.values.get("base"), list):
            self.values["base"] = [one for one in self.values["base"] if _key_of(one) != key]

    def _set(self, key: str, value: Any, typed: str) -> None:
        """A key of the question itself."""
        parents, last = key.split(".")[1:-1], key.split(".")[-1]
        name = [*parents, last][0] if "." in key else ""
        today = dict(renamed.sweep_keys()).get(key)
        if isinstance(value, SweepValues):
            self.problems.append(f"{typed} gives several values, and a key of the question takes one; give one")
        elif today is not None:
            self.problems.append(f"{typed}: {key} is now called {today}; write that")
        elif not name or name == "space":
            self.problems.append(f"{typed} is no key of the question; write what varies as optimizer.lr=0.01,0.1")
        elif self.has_begun and name not in EXTENDABLE:
            self.problems.append(
                f"{typed} changes what was begun; start another sweep, or change {', '.join(EXTENDABLE)}"
            )
        else:
            if key in ("sweep.strategy", "sweep.pruner") and isinstance(value, str):
                parents, last, key = [last], "name", f"{key}.name"
            node = self.values
            for parent in parents:
                node[parent] = dict(node[parent]) if isinstance(node.get(parent), dict) else {}
                node = node[parent]
            both_maps = isinstance(value, dict) and isinstance(node.get(last), dict)
            node[last] = {**node[last], **value} if both_maps else value
            self.origins.add_override(key, value, typed.partition("=")[2])

    def finish(self, *, may_be_single: bool) -> SweepSpec:
        """Fill in what was left out, and check everything.

        Raises:
            InputError: with every problem.
        """
        from experiments.sweep.spec_rules import RuleContext, find_faults

        self._refuse_storage()
        values = self.values = fill_defaults(self.values, self.space)
        validation = Validation(self.origins, (), self.groups)
        frozen = as_yaml(self.space)
        for secret in find_secret_keys({**values, "space": frozen}, "sweep"):
            validation.secret(secret)
        validation.fields(values, SCHEMA, "sweep.")
        case = RuleContext(
            ConfigView(values, ()), self.space, list(self.groups), self.origins, may_be_single or bool(self.problems)
        )
        told = [*self.problems, *self.origins.traps.values(), *validation.problems, *find_faults(case)]
        if told:
            raise ConfigError(list(dict.fromkeys(told)), f"the sweep '{values['name']}'")
        return SweepSpec({**values, "space": frozen}, self.space)

    def _refuse_storage(self) -> None:
        strategy = self.values.get("strategy")
        if isinstance(strategy, dict) and "storage" in strategy:
            del strategy["storage"]
            place = self.origins.place("sweep.strategy.storage")
            self.problems.append(
                f"sweep.strategy.storage{place} is gone: the sweep's ledger holds what a storage held; leave it out"
            )


def _key_of(typed: Any) -> str:
    return str(typed).lstrip("+~").partition("=")[0]


def fill_defaults(values: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """A question with the defaults of what it leaves out."""
    found = {**deepcopy(DEFAULTS), **{key: value for key, value in values.items() if value is not None}}
    for name in ("strategy", "budget"):
        if isinstance(found[name], dict):
            found[name] = {**DEFAULTS[name], **found[name]}
    if isinstance(found["pruner"], dict):
        found["pruner"] = {"factor": FACTOR, **found["pruner"]}
    if found["points"] and not space and values.get("strategy") is None:
        found["strategy"] = {**DEFAULTS["strategy"], "name": "list"}
    return found


def read(name: str, overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()) -> SweepSpec:
    """The question of a file, with overrides.

    Args:
        name: of a file in a folder ``sweeps``, without ``.yaml``; or the path of one.
        overrides: ``sweep.KEY=VALUE`` of the question; in the grammar of sweeps of the space; all others join ``base``.
        config_dirs: folders with groups, options and, in ``sweeps``, questions of the user's own.

    Raises:
        InputError: with every problem.
    """
    dirs = options.user_folders(config_dirs)
    path = _find(name, dirs)
    origins = SourceMap()
    node = _content(path, origins)
    draft = _SpecDraft.of(
        {"name": path.stem, **{key: value for key, value in node.items() if value is not None}},
        options.groups(dirs),
        origins,
    )
    for typed in overrides:
        draft.override(typed)
    return draft.finish(may_be_single=False)


def read_overrides(
    overrides: Sequence[str], config_dirs: Sequence[str | Path] = (), name: str | None = None
) -> SweepSpec:
    """The question that overrides alone ask: a grid of all that have several values, or one point where none has.

    Args:
        overrides: as of `read`.
        config_dirs: folders with groups and options of the user's own.
        name: of the sweep; None: made of what varies.

    Raises:
        InputError: with every problem.
    """
    draft = _SpecDraft.of({}, options.groups(options.user_folders(config_dirs)))
    for typed in overrides:
        draft.override(typed)
    varying = [key.replace("/", ".").rpartition(".")[2] for key in draft.space]
    made = name or "-".join(dict.fromkeys(varying))[:MOST_NAMED].strip("-.") or "single"
    draft.values = {"name": made, **{key: value for key, value in draft.values.items() if value is not None}}
    return draft.finish(may_be_single=True)


def list_sweep_files(config_dirs: Sequence[str | Path] = ()) -> dict[str, Path]:
    """The file of every spec, by name: the house's own, and those in ``sweeps`` of the user's folders."""
    found: dict[str, Path] = {}
    for folder in _folders(config_dirs):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def _folders(config_dirs: Sequence[str | Path]) -> list[Path]:
    return [HOUSE, *(Path(folder) / "sweeps" for folder in config_dirs)]


def _find(name: str, dirs: Sequence[Path]) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError([f"there is no file {name}; `lathe options sweeps` lists the sweeps that have names"])
        return path.resolve()
    found = [path for folder in _folders(dirs) if (path := folder / f"{name}.yaml").is_file()]
    if not found:
        way_out = did_you_mean(name, list_sweep_files(dirs), "`lathe options sweeps` lists what there is")
        raise InputError([f"there is no sweep '{name}'; {way_out}"])
    if len(found) > 1:
        hidden, by = shown_path(found[1]), shown_path(found[0])
        raise InputError([f"{hidden} is hidden by {by}, which has the same name; rename it"])
    return found[0]


def _content(path: Path, origins: SourceMap) -> dict[str, Any]:
    """What a file says in plain values.

    Raises:
        InputError: it is no map of YAML.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    where, subject = shown_path(path), f"the sweep '{path.stem}'"
    try:
        node: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        origins.add_file(path, "sweep")
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise ConfigError([f"{where}{line} is no valid YAML: {err.problem}; mend that line"], subject) from err
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError) as err:
        raise ConfigError([f"{where} cannot be read: {str(err).splitlines()[0]}; mend it"], subject) from err
    if not isinstance(node, dict):
        raise ConfigError([f"{where} is a list, not a map; write `key: value` lines"], subject)
    return node
