"""Checks a composed configuration against its closed schema and reports every problem together."""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from experiments.config import signature
from experiments.config import type_check as check
from experiments.config.allowlist import GROUPS, OWN, find_groups, how_to_allow, is_allowed, is_own, is_trusted
from experiments.config.renamed_targets import TARGETS, complete
from experiments.config.rules.all_rules import find_problems
from experiments.config.rules.optimizer import NOT_ARGUMENTS, merge_phase
from experiments.config.signature import Argument, Module, Signature, SourceError
from experiments.config.source_map import SourceMap, parents
from experiments.core import renamed
from experiments.core.errors import ConfigError
from experiments.core.files.field_types import MAX_INT
from experiments.core.secrets import find_secret_keys

ROOT = "experiments.config.schema.ExperimentSchema"
MAX_SUGGESTIONS = 100
MARKS = ("_target_", "_partial_")
METHODS = {"launcher": ("launch", "submit"), "tracking": ("log_metrics",)}
METHODS |= {"strategy": ("ask",), "pruner": ("should_prune",)}
"""A user's class for one of these groups has one of these methods."""
PLURALS = {"tracking.trackers": "tracking", "callback": "callback", "gradient": "gradient", "evaluation_sets": "data"}
"""The group of the components in a map or list of the schema."""


def check_config(
    config: Any, trust: Collection[str], subject: str, *, origins: SourceMap | None = None, with_rules: bool = True,
    other_arguments: bool = False, other_classes: bool = False,
) -> None:  # fmt: skip
    """Check a configuration that was read from a folder or a file, before anything in it is built.

    Args:
        config: with all keys of the root, resolved.
        trust: packages that the user trusts.
        subject: what it belongs to, for the message.
        origins: where its values were written; None: unknown.
        with_rules: also check the rules between keys; False: only what it may build.
        other_arguments: the code that will run is not today's: components may have other arguments.
        other_classes: it may have other components.

    Raises:
        ConfigError: with every problem.
    """
    if not isinstance(config, dict):
        raise ConfigError(["it is not a map of keys; restore its file"], subject)
    validation = Validation(origins or SourceMap(), trust, other_arguments=other_arguments, other_classes=other_classes)
    own = copy.deepcopy(config)
    validation.check_root(own)
    problems = [*validation.problems]
    if with_rules:
        problems += find_problems(own, {*find_secret_keys(own)})
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), subject)


@dataclass
class Validation:
    """One pass over a configuration, which collects ``problems``."""

    origins: SourceMap
    trust: Collection[str] = ()
    groups: Collection[str] = ()
    problems: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    other_arguments: bool = False
    """Components may have arguments that today's code does not know, with plain values."""
    other_classes: bool = False
    """A key of the root may name a class of its group, or of a trusted package, that today's code does not have."""

    def check_root(self, config: dict[str, Any]) -> None:
        """Check the whole configuration, and convert its numbers to their canonical form."""
        for key in find_secret_keys(config):
            self.report_secret(key)
        self.config = config
        self._fields(config, signature.read(ROOT), "")

    def check_fields(self, node: dict[str, Any], schema: str, prefix: str) -> None:
        """Check a map against another class of the schema.

        Args:
            node: the map; its numbers are converted to their canonical form.
            schema: full name of the class.
            prefix: of its keys in messages, such as ``sweep.``.
        """
        self._fields(node, signature.read(schema), prefix)

    def report_secret(self, key: str) -> None:
        """Report a secret value, without showing it."""
        self.problems.append(
            f"{key}=***{self.origins.location(key)} looks like a secret, which must not be written to a trial; "
            f"set an environment variable and write '{key}=${{oc.env:NAME}}'"
        )

    def _fields(self, node: dict[str, Any], spec: Signature, prefix: str, is_optional: bool = False) -> None:
        for name, value in node.items():
            key = f"{prefix}{name}"
            if name in spec.arguments:
                node[name] = self._field(value, spec.arguments[name], spec.module, key)
            else:
                self._unknown_field(key, value, spec)
        renamed_keys = {renamed.new_name(name, spec.arguments) for name in node if name not in spec.arguments}
        known = {*node, *renamed_keys}
        missing = [name for name, argument in spec.arguments.items() if argument.required and name not in known]
        if is_optional and len(missing) > 1:  # an override has set one key of a section that is null
            parent = prefix.rstrip(".")
            self.problems.append(
                f"{parent} lacks {', '.join(missing)}; choose an option that sets {parent}, or leave {parent} null"
            )
            return
        for name in missing:
            self._missing(f"{prefix}{name}", spec.arguments[name], spec.module, "the schema needs")

    def _unknown_field(self, key: str, value: Any, spec: Signature) -> None:
        parent, _, name = key.rpartition(".")
        setting = self.origins.as_written(key, value)
        if parent:
            self.problems.append(f"{setting}: {parent} has no key {name!r}; {self._suggest(name, spec.arguments)}")
        elif key in self.groups:
            location = self.origins.location(key)
            self.problems.append(
                f"{key}{location}: the file sets values below '{key}', which is not a key of the configuration; "
                "start the file with `# @package _global_`"
            )
        else:
            hint = self._suggest(name, {*spec.arguments, *self.groups}, "`lathe plan --cfg job` shows every key")
            if inside := self._find_inside(name):
                hint = f"did you mean {' or '.join(map(repr, inside))}?"
            self.problems.append(f"{setting}: the configuration has no key {name!r}; {hint}")

    def _find_inside(self, name: str) -> list[str]:
        """The keys of this name right below a key of the root. Only the first problems get it: it looks at every key."""
        if len(self.problems) > MAX_SUGGESTIONS:
            return []
        return [f"{key}.{name}" for key, node in self.config.items() if isinstance(node, dict) and name in node]

    def _suggest(self, name: str, known: Collection[str], otherwise: str = "") -> str:
        """A hint for an unknown key. The search for a similar name takes a millisecond, so only the first ones get it."""
        if len(self.problems) > MAX_SUGGESTIONS:
            return "remove it"
        return renamed.suggestion(name, known, otherwise)

    def _field(self, value: Any, argument: Argument, module: Module, key: str) -> Any:
        name, may_be_null = check.class_of(argument.annotation)
        if value is check.UNKNOWN or (value is None and may_be_null and name in module.classes):
            return value
        if name == "Part":
            self.check_component(value, key, frozenset({PLURALS.get(next(parents(key), ""), key)}))
        elif name in module.classes and isinstance(value, dict):
            spec = signature.read(f"{module.name}.{name}")
            self._fields(value, spec, f"{key}.", may_be_null)
        elif name in module.classes:
            inner = ", ".join(signature.read(f"{module.name}.{name}").arguments)
            null = " or null" if may_be_null else ""
            self.problems.append(f"{self.origins.as_written(key, value)} is not a map{null}; its keys are {inner}")
        elif (item := check.item_class(argument.annotation, module)) is not None and isinstance(value, (dict, list)):
            return self._items(value, item, argument, module, key)
        else:
            return self._plain(value, argument, module, key)
        return value

    def _items(self, value: Any, item: ast.expr, argument: Argument, module: Module, key: str) -> Any:
        """Check a list or map of schema classes."""
        is_map = isinstance(argument.annotation, ast.Subscript) and isinstance(argument.annotation.slice, ast.Tuple)
        if is_map and isinstance(value, dict):
            return {
                name: self._field(inner, Argument(item, True), module, f"{key}.{name}") for name, inner in value.items()
            }
        if not is_map and isinstance(value, list):
            return [
                self._field(inner, Argument(item, True), module, f"{key}[{number}]")
                for number, inner in enumerate(value)
            ]
        return self._plain(value, argument, module, key)

    def check_component(self, node: Any, key: str, groups: frozenset[str]) -> None:
        """Check a component and the components inside it.

        Args:
            node: of the configuration.
            key: dotted key of the node.
            groups: that the key takes.
        """
        target = complete(node, groups)
        if not isinstance(target, str):
            setting = (
                self.origins.as_written(key, node)
                if not isinstance(node, dict)
                else f"{key}{self.origins.location(key)}"
            )
            if target is not None:
                setting = self.origins.as_written(f"{key}._target_", target)
            self.problems.append(
                f"{setting} does not name a class; add `_target_: package.module.Class` to it, "
                f"or choose one of the options that `lathe options {key}` lists"
            )
            return
        spec = self._signature(target, key, groups)
        if spec is not None:
            self._arguments(node, spec, key, groups)

    def _optimizer_key(self, node: dict[str, Any], name: str, spec: Signature, key: str) -> None:
        """Check one of the keys that an optimizer's class does not get."""
        value = node[name]
        if name == "schedule" and value is not None:
            self.check_component(value, f"{key}.schedule", frozenset({"schedule"}))
        elif name == "groups" and isinstance(value, list):
            for number, group in enumerate(value):
                values = (
                    {each: item for each, item in group.items() if each != "match"} if isinstance(group, dict) else {}
                )
                partial = {"_partial_": True, **values}
                self._arguments(partial, spec, f"{key}.groups[{number}]", frozenset())
        elif name == "phases" and isinstance(value, dict):
            for phase, own in value.items():
                if isinstance(own, dict):
                    merged = merge_phase(node, own)
                    self.check_component(merged, f"{key}.phases.{phase}", frozenset({"optimizer"}))

    def _signature(self, target: str, key: str, groups: frozenset[str]) -> Signature | None:
        setting = self.origins.as_written(f"{key}._target_", target)
        if "." not in target:
            self.problems.append(f"{setting} is not the full path of a class; write package.module.Class")
        elif not is_allowed(target, self.trust):
            self.problems.append(
                f"{setting} is not on the list of code that may run; {how_to_allow(target, self.trust)}"
            )
        elif not self._is_in_place(target, setting, key, groups):
            return None
        else:
            return self._read(target, setting, key, groups)
        return None

    def _is_in_place(self, target: str, setting: str, key: str, groups: frozenset[str]) -> bool:
        """Whether a class of Lathe or torch can serve a group that is wanted here; reports a problem otherwise."""
        own = frozenset() if is_trusted(target, self.trust) else find_groups(target)
        if own & groups or not own & GROUPS:  # a class of no group is reported later
            return True
        others = " or ".join(f"'{group}'" for group in sorted(own))
        if key in groups:
            rule, fix = f"not for '{key}'", f"`lathe options {key}` lists the options"
        elif groups:
            wanted = " or ".join(sorted(groups))
            rule, fix = f"and {key} takes a component for {wanted}", f"`lathe options {sorted(groups)[0]}` lists them"
        else:
            rule, fix = f"and {key} takes no component", "write a plain value"
        self.problems.append(f"{setting} is a class for {others}, {rule}; {fix}")
        return False

    def _read(self, target: str, setting: str, key: str, groups: frozenset[str]) -> Signature | None:
        try:
            spec = signature.read(target)
        except SourceError as err:
            if self.other_classes and (key in find_groups(target) or is_trusted(target, self.trust)):
                return None
            new = TARGETS.get(target)
            self.problems.append(
                f"{setting} cannot be found: {err}" if new is None else f"{setting} has moved; it is now called {new!r}"
            )
            return None
        if not is_allowed(f"{spec.defined_in}.", self.trust):
            self.problems.append(
                f"{setting} is imported from '{spec.defined_in}', which is not on the list of code "
                f"that may run; name a class that '{target.rpartition('.')[0]}' defines itself"
            )
            return None
        if not spec.is_class and is_own(target):
            self.problems.append(f"{setting} is a function; name a class")
            return None
        if not self._is_in_place(f"{spec.defined_in}.", setting, key, groups):
            return None
        if target.startswith(OWN) and not spec.is_component and not is_trusted(target, self.trust):
            group = key if key in groups else min(groups, default="GROUP")
            self.problems.append(
                f"{setting} is not a component, so a configuration may not name it; "
                f"`lathe options {group}` lists the options (a class of yours needs the line `is_component = True`)"
            )
            return None
        wanted = next((group for group in METHODS if group in groups), None)
        if wanted and not spec.is_component and not signature.has_method(spec, METHODS[wanted]):
            self.problems.append(
                f"{setting} is not a class for '{wanted}', because it does not implement {' or '.join(METHODS[wanted])}; "
                f"`lathe options {wanted}` lists the options"
            )
            return None
        return spec

    def _arguments(self, node: dict[str, Any], spec: Signature, key: str, groups: frozenset[str]) -> None:
        short = spec.target.rpartition(".")[2]
        partial = node.get("_partial_", False)
        if not isinstance(partial, bool):
            self.problems.append(
                f"{self.origins.as_written(f'{key}._partial_', partial)} is not true or false; write one"
            )
        elif partial and "." not in key and "[" not in key and key != "optimizer":
            self.problems.append(
                f"{self.origins.as_written(f'{key}._partial_', partial)}: only an optimizer gets arguments later, "
                f"a {key} does not; remove it"
            )
        for name, value in node.items():
            if groups == frozenset({"optimizer"}) and name in NOT_ARGUMENTS:
                self._optimizer_key(node, name, spec, key)
            elif name in spec.arguments:
                inner = check.wanted_groups(spec, name) if isinstance(value, (dict, list)) else frozenset()
                node[name] = self._plain(value, spec.arguments[name], spec.module, f"{key}.{name}", inner)
            elif name not in MARKS and not spec.is_open and not self.other_arguments:
                setting = self.origins.as_written(f"{key}.{name}", value)
                self.problems.append(
                    f"{setting}: {short} has no argument {name!r}; {self._suggest(name, spec.arguments)}"
                )
            elif name not in MARKS:
                self._check_nested_components(value, f"{key}.{name}", check.wanted_groups(spec, name))
        renamed_keys = {renamed.new_name(name, spec.arguments) for name in node if name not in spec.arguments}
        for name, argument in spec.arguments.items():
            is_missing = argument.required and name not in {*node, *renamed_keys}
            if is_missing and not partial and not self.other_arguments:
                self._missing(f"{key}.{name}", argument, spec.module, f"{short} needs")

    def _missing(self, key: str, argument: Argument, module: Module, who: str) -> None:
        wanted = check.wanted(argument.annotation, module)
        if key in self.origins.removed:
            self.problems.append(f"{self.origins.removed[key]} removes a required key; remove that override")
        elif (name := check.class_of(argument.annotation)[0]) == "Part" or name in module.classes:
            keys = ", ".join(signature.read(f"{module.name}.{name}").arguments) if name != "Part" else "_target_"
            self.problems.append(f"{key} is missing; {who} a map with the keys {keys}: add it to the configuration")
        elif argument.annotation is not None and wanted is None:
            partial = f"`{key.rpartition('.')[0]}._partial_=true` if code passes it later"
            self.problems.append(
                f"{key} is missing; {who} an object: name its class (`{key}._target_=...`), or {partial}"
            )
        else:
            example = check.example(argument.annotation, module)
            self.problems.append(f"{key} is missing; {who} {wanted or 'it'}: write `{key}={example}` or the like")

    def _plain(
        self, value: Any, argument: Argument, module: Module, key: str, groups: frozenset[str] = frozenset()
    ) -> Any:
        """Check a value that is not a schema class; returns its canonical form."""
        inner = check.inner_of_map(argument.annotation, module)
        if isinstance(value, dict) and "_target_" not in value and inner is not None:
            return {
                name: self._plain(item, Argument(inner, True), module, f"{key}.{name}", groups)
                for name, item in value.items()
            }
        wanted = check.mismatch(value, argument.annotation, module)
        if (fault := self._number_fault(key, value)) is not None:
            self.problems.append(f"{self.origins.as_written(key, value)} {fault}")
        elif wanted is not None and key not in self.origins.ambiguous_scalars:
            hint = self._hint(key, value, argument, module, wanted)
            self.problems.append(f"{self.origins.as_written(key, value)} is not {wanted}; {hint}")
        self._check_nested_components(value, key, groups)
        return check.canonical(value, argument.annotation, module)

    def _number_fault(self, key: str, value: Any) -> str | None:
        """What is wrong with a number, or with one in a list. A measured value, outside of a configuration, may be NaN."""
        if isinstance(value, list):
            return next(filter(None, (self._number_fault(key, item) for item in value)), None)
        if isinstance(value, int) and abs(value) > MAX_INT and key != "seed":  # which is only hashed
            return "is larger than 2^63-1, the largest whole number; write a smaller one"
        if not isinstance(value, float) or not self.config:
            return None
        if math.isnan(value):
            return "is not a number; write one"
        # A step of infinite length is never meant; a class of yours may take an infinite limit.
        is_step = key.partition(".")[0] in ("optimizer", "schedule") or "." not in key
        return "is infinite; write a number" if is_step and math.isinf(value) else None

    def _check_nested_components(self, value: Any, key: str, groups: frozenset[str]) -> None:
        if isinstance(value, dict) and "_target_" in value:
            self.check_component(value, key, groups)
        elif isinstance(value, dict):
            for name, inner in value.items():
                self._check_nested_components(inner, f"{key}.{name}", groups)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                self._check_nested_components(inner, f"{key}[{index}]", groups)

    def _hint(self, key: str, value: Any, argument: Argument, module: Module, wanted: str) -> str:
        text = self.origins.text(key)
        written = text is not None and not isinstance(value, (str, dict, list)) and value is not None
        options = check.choices(argument.annotation, module)
        if written and ("text" in wanted or text in options):  # YAML parsed the text as another type
            quoted = f"'{text}'" if self.origins.location(key) else f"\"{key}='{text}'\", with both kinds of quotes"
            return f"YAML reads {text} as {check.kind(value)}: write {quoted}"
        if check.is_reference(value):
            return f"an environment variable is text; write the value itself, on the command line {key}=$NAME"
        if options and "bool" not in options:
            return renamed.suggestion(str(value), options, otherwise="write one of these")
        example = check.example(argument.annotation, module)
        if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INT and "whole number" in wanted:
            example = str(int(value))
        return f"write `{key}={example}` or the like"
