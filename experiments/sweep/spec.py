"""The spec of a sweep, read from YAML and overrides and checked against its schema. Imports neither torch nor Optuna."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from experiments.config import options
from experiments.config.allowlist import trusted
from experiments.config.rules.base import ConfigView
from experiments.config.rules.trusted_files import TrustedFiles
from experiments.config.source_map import SourceMap
from experiments.config.sweep_values import SweepValues
from experiments.config.validate import Validation
from experiments.core import renamed
from experiments.core.errors import ConfigError, InputError
from experiments.core.secrets import find_secret_keys, is_secret
from experiments.sweep.expand import select_space
from experiments.sweep.space import (
    Choice,
    Dimension,
    Space,
    combine_group_options,
    count_points,
    fix_key,
    join_values,
    list_keys,
    replace_values,
    rewrite,
    sample_points,
    set_dimension,
    to_yaml,
)
from experiments.sweep.space_parser import SpaceParser, explain_syntax_error, parse
from experiments.sweep.spec_defaults import DEFAULTS, drop_nulls, fill_defaults
from experiments.sweep.strategies.listed import Grid, RandomSearch
from experiments.sweep.strategies.make_strategy import expand_option, is_adaptive, make_strategy
from experiments.sweep.sweep_files import find_foreign_settings, find_sweep_file, read_sweep_file
from experiments.sweep.templates import read_spec

SCHEMA = "experiments.config.schema.SweepSchema"
FILE = "sweep.yaml"
PARTS = ("strategy", "pruner")
"""The components of a spec."""
EXTENDABLE = ("description", "num_seeds", "budget", "max_attempts", "reuse")
"""Keys that may change after the sweep has started, because they do not change its trials."""
MAX_NAME_LENGTH = 60


@dataclass(frozen=True)
class SweepSpec:
    """A sweep spec that is checked and complete."""

    values: dict[str, Any]
    """By all keys of `experiments.config.schema.SweepSchema`, as plain values; the space as `to_yaml` writes it."""
    space: Space
    is_name_chosen: bool = True
    """False: the name was made from the keys that vary."""
    unset: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Of `metric` and `mode`, those that follow from the experiment, because the spec does not give them."""

    @property
    def name(self) -> str:
        return str(self.values["name"])

    @cached_property
    def keys(self) -> list[str]:
        """The keys that vary."""
        listed = (key for point in self._listed_points() for key in point)
        return list_keys(self.space) or list(dict.fromkeys(listed))

    @cached_property
    def point_space(self) -> Space:
        """The space from which points are chosen: without the keys of `average_over`."""
        return select_space(self.values, self.space)

    def count_points(self) -> int | None:
        """Number of points; None if it is not known."""
        most = self.values["budget"]["max_points"]
        if self.values["strategy"]["name"] == "list":
            count: int | None = len(self.values["points"])
        else:
            count = count_points(self.point_space) if self.values["strategy"]["name"] == "grid" else most
        return count if most is None or count is None else min(count, most)

    def preview_points(self) -> Iterator[dict[str, Any]]:
        """The points that are known before any has run; for an adaptive strategy, a few that it may choose."""
        most = self.values["budget"]["max_points"]
        if self.values["strategy"]["name"] == "list":
            return islice(self._listed_points(), most)
        if is_adaptive(self.values["strategy"]):
            return sample_points(self.point_space)
        strategy = make_strategy(self.values["strategy"])
        assert isinstance(strategy, (Grid, RandomSearch))
        return strategy.list_points(self.point_space, most)

    def choices(self, groups: Mapping[str, Any]) -> list[dict[str, str]]:
        """All combinations of group options that points have. A configuration is composed for each."""
        if self.values["strategy"]["name"] != "list":
            return combine_group_options(self.space, groups)
        combinations = [
            {key: value for key, value in point.items() if key in groups} for point in self._listed_points()
        ]
        distinct = {tuple(sorted(one.items())): one for one in combinations}
        return sorted(distinct.values(), key=len, reverse=True)

    def _listed_points(self) -> Iterator[dict[str, Any]]:
        from experiments.config.overrides import read_override

        return (dict(read_override(override) for override in overrides) for overrides in self.values["points"])

    def to_yaml(self) -> str:
        """The spec as YAML, which does not depend on the files it was read from."""
        return yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)

    @classmethod
    def load(cls, folder: Path) -> SweepSpec:
        """Load the spec of a sweep from its folder."""
        values = read_spec(folder)
        values["strategy"].pop("storage", None)  # a key of sweeps from before 0.1.0
        return cls(values, parse(values["space"]))

    def extend(
        self, overrides: Sequence[str], config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
    ) -> SweepSpec:
        """Add values, points, seeds or budget to the spec of a sweep that has started.

        Args:
            overrides: ``optimizer.lr=0.3,1`` adds two values; of the keys ``sweep.KEY`` only `EXTENDABLE`.
            config_dirs: folders with further groups and options.
            trust: packages whose classes `_target_` may name.

        Raises:
            InputError: an override changes anything else.
        """
        if not overrides:
            return self
        draft = _SpecDraft.from_node(deepcopy(self.values), options.groups(options.user_folders(config_dirs)))
        draft.space, draft.has_started = self.space, True
        for override in overrides:
            draft.apply(override)
        name = self.values["strategy"]["name"]
        if name in ("cmaes", "gp") and draft.space != self.space:
            draft.problems.append(
                f"sweep.strategy.name={name} has measured this space; start another sweep to change it"
            )
        return draft.finish(may_be_single=True, trust=trust)


@dataclass
class _SpecDraft:
    """A spec that is being read; collects problems, so that all are reported together."""

    values: dict[str, Any]
    groups: dict[str, dict[str, Path]]
    source_map: SourceMap
    space: Space = field(default_factory=dict)
    has_started: bool = False
    """Whether the sweep has trials already."""
    problems: list[str] = field(default_factory=list)

    @classmethod
    def from_node(
        cls, node: dict[str, Any], groups: dict[str, dict[str, Path]], source_map: SourceMap | None = None
    ) -> _SpecDraft:
        """Start from the content of a file."""
        draft = cls(node, groups, source_map or SourceMap())
        for name in PARTS:
            if isinstance(node.get(name), str):  # short form: the name alone
                node[name] = {"name": node[name]}
                draft.source_map.copy(f"sweep.{name}", f"sweep.{name}.name")
        if isinstance(node.get("space"), dict):
            parser = SpaceParser(groups, draft.source_map, "sweep.space")
            draft.space = parser.parse_space(node["space"])
            draft.problems += parser.problems
            node["space"] = {}
        return draft

    def apply(self, override: str) -> None:
        """Take one override in: it is of the spec, of the space, or joins what all trials share."""
        if override.startswith("~"):
            self._remove(override)
            return
        from experiments.config.overrides import read_override

        name, equals, text = override.partition("=")
        masked = f"{name}=***" if equals and is_secret(name.lstrip("+"), text) else override
        try:
            key, value = read_override(override)
        except InputError as err:
            self.problems.append(explain_syntax_error(err, text, masked))
            return
        if key == "sweep" or key.startswith("sweep."):
            self._set(key, value, masked)
        elif isinstance(value, SweepValues):
            self._vary(key, value, masked)
        elif not self.has_started:
            self.space = fix_key(self.space, key, value)
            self._base().append(override)
        elif key in list_keys(self.space):
            self.space = set_dimension(self.space, key, Choice((value,)), join_values)
        else:
            self.problems.append(f"{masked}: all trials share {key}, and some have started; start another sweep")

    def _base(self) -> list[Any]:
        base = self.values.setdefault("base", [])
        return base if isinstance(base, list) else []

    def _remove(self, override: str) -> None:
        key = override.lstrip("~").partition("=")[0]
        if self.has_started or key == "sweep" or key.startswith("sweep."):
            hint = "start another sweep" if self.has_started else f"write `{key}=null` or another value"
            self.problems.append(f"{override} removes a required key; {hint}")
        elif key in list_keys(self.space):
            self.space = rewrite(self.space, key, lambda dimension: {})
        else:
            self._base().append(override)

    def _vary(self, key: str, values: SweepValues, override: str) -> None:
        parser = SpaceParser(self.groups)
        dimension = parser.parse_values(key, values, override)
        self.problems += parser.problems
        if dimension is None:
            return
        join: Callable[[Dimension, Dimension], Dimension] = join_values if self.has_started else replace_values
        self.space = set_dimension(self.space, key, dimension, join)
        if not self.has_started and isinstance(self.values.get("base"), list):
            self.values["base"] = [one for one in self.values["base"] if _key_of(one) != key]

    def _set(self, key: str, value: Any, override: str) -> None:
        """Set a key of the spec."""
        parents, last = key.split(".")[1:-1], key.split(".")[-1]
        name = [*parents, last][0] if "." in key else ""
        new_name = dict(renamed.sweep_keys()).get(key)
        if isinstance(value, SweepValues):
            self.problems.append(f"{override} has several values, but a key of the spec takes one value; write one")
        elif new_name is not None:
            self.problems.append(f"{override}: {key} is now called {new_name}; write that")
        elif not name or name == "space":
            self.problems.append(
                f"{override} is not a key of the spec; vary another key, such as optimizer.lr=0.01,0.1"
            )
        elif self.has_started and name not in EXTENDABLE:
            self.problems.append(
                f"{override} cannot change after the sweep has started; start another sweep, or change {', '.join(EXTENDABLE)}"
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
            self.source_map.add_override(key, value, override.partition("=")[2])

    def finish(
        self, *, may_be_single: bool, trust: Sequence[str] = (),
        find_base_problems: Callable[[list[str]], list[str]] = lambda base: [],
    ) -> SweepSpec:  # fmt: skip
        """Add the defaults, and check everything.

        Args:
            may_be_single: whether nothing has to vary.
            trust: packages whose classes `_target_` may name.
            find_base_problems: of the experiment with these overrides; called only if the spec has problems itself.

        Raises:
            InputError: with all problems.
        """
        from experiments.sweep.spec_rules import RuleContext, find_problems, remove_old_keys

        self.problems += remove_old_keys(self.values, self.source_map)
        for part in PARTS:
            self.values |= {part: expand_option(part, self.values[part], self.groups)} if part in self.values else {}
        unset = frozenset({"metric", "mode"} - drop_nulls(self.values).keys())
        values = self.values = fill_defaults(self.values, self.space)
        validation = Validation(self.source_map, trusted(trust), self.groups)
        frozen = to_yaml(self.space)
        for secret in find_secret_keys({**values, "space": frozen}, "sweep"):
            validation.report_secret(secret)
        own = {part: values[part] for part in PARTS if isinstance(values[part], dict) and "_target_" in values[part]}
        values |= {part: DEFAULTS[part] for part in own}
        validation.check_fields(values, SCHEMA, "sweep.")
        for part, node in own.items():
            values[part] = {name: value for name, value in node.items() if name != "name"}
            validation.check_component(values[part], f"sweep.{part}", frozenset({part}))
            values[part]["name"] = node["name"]
        context = RuleContext(
            ConfigView(values, ()), self.space, list(self.groups), self.source_map, may_be_single or bool(self.problems)
        )
        problems = self.source_map.add_misread([*self.problems, *validation.problems])
        problems += find_problems(context)
        if problems:
            choices = combine_group_options(self.space, self.groups)[0].items()
            chosen = [f"{group}={option}" for group, option in choices if option in self.groups.get(group, ())]
            problems += find_base_problems([*filter(_is_of_experiment, self._base()), *chosen])
            raise ConfigError(list(dict.fromkeys(problems)), f"the sweep '{values['name']}'")
        return SweepSpec({**values, "space": frozen}, self.space, unset=unset)


def _is_of_experiment(override: Any) -> bool:
    """Whether an override in ``base`` is a valid one of an experiment; the rules of the spec report the others."""
    from experiments.config.overrides import read_override

    if not isinstance(override, str):
        return False
    try:
        key, value = read_override(override)
    except InputError:
        return False
    return key.partition(".")[0] != "sweep" and not isinstance(value, SweepValues)


def _key_of(override: Any) -> str:
    return str(override).lstrip("+~").partition("=")[0]


def _find_base_problems(config_dirs: Sequence[str | Path], trust: Sequence[str], base: list[str]) -> list[str]:
    from experiments.config.compose import compose

    try:
        compose(base, config_dirs=config_dirs, trust=trust)
    except InputError as err:
        return err.problems
    return []


def read(
    name: str, overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
) -> SweepSpec:
    """Read the spec of a file, with overrides.

    Args:
        name: of a file in a folder ``sweeps``, without ``.yaml``; or a path.
        overrides: ``sweep.KEY=VALUE`` sets a key of the spec, several values extend the space, others are added to ``base``.
        config_dirs: your folders with groups, options and, in ``sweeps``, sweep files.
        trust: packages whose classes `_target_` may name, and folders. Only a sweep file in one of them, or a built-in one, may
            set what runs in a shell.

    Raises:
        InputError: with all problems.
    """
    dirs = options.user_folders(config_dirs)
    path = find_sweep_file(name, dirs)
    source_map = SourceMap()
    node = read_sweep_file(path, source_map)
    groups, files = options.groups(dirs), TrustedFiles(trust, dirs)
    foreign = list(find_foreign_settings(node, path, files, groups))  # before `from_node` empties the space
    draft = _SpecDraft.from_node(
        {"name": path.stem, **drop_nulls(node)},
        groups,
        source_map,
    )
    draft.problems += foreign
    for override in overrides:
        draft.apply(override)
    return draft.finish(
        may_be_single=False, trust=trust, find_base_problems=partial(_find_base_problems, config_dirs, trust)
    )


def read_overrides(
    overrides: Sequence[str],
    config_dirs: Sequence[str | Path] = (),
    name: str | None = None,
    trust: Sequence[str] = (),
) -> SweepSpec:
    """Make a spec from overrides: a grid over all keys with several values, or a single point.

    Args:
        overrides: as for `read`.
        config_dirs: your folders with groups and options.
        name: of the sweep; None: made from the keys that vary.
        trust: your packages whose classes `_target_` may name.

    Raises:
        InputError: with all problems.
    """
    draft = _SpecDraft.from_node({}, options.groups(options.user_folders(config_dirs)))
    for override in overrides:
        draft.apply(override)
    varied = [key.replace("/", ".").rpartition(".")[2] for key in draft.space]
    made = "-".join(dict.fromkeys(varied))[:MAX_NAME_LENGTH].strip("-.") or "sweep"
    draft.values = {"name": name or made, **(values := drop_nulls(draft.values))}
    spec = draft.finish(
        may_be_single=True, trust=trust, find_base_problems=partial(_find_base_problems, config_dirs, trust)
    )
    return replace(spec, is_name_chosen=name is not None or "name" in values)
