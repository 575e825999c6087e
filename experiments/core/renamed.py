"""Names that the first version of Lathe used for configuration keys, metrics and states, and their names today.

Readers of files that an earlier version wrote translate with these tables; where a user types an old name, the error
names the new one. The id of a trial is made of the first names, so that a rename changes no id.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from experiments.core.errors import did_you_mean

SECTIONS = {
    "": {"note": "description"},
    "hardware": {"efficiency": "mfu"},
    "hardware.slurm": {"lead_s": "signal_delay_s"},
}
"""By section of the experiment, the keys that no class takes as arguments."""
CROP = {"min_crop_area": "min_scale"}
ARGUMENTS = {
    "launchers.slurm.Slurm": {"dry": "dry_run"},
    "modules.parallel.parameter_server.ParameterServer": {
        "servers": "num_servers", "backup": "num_backup_workers", "push_every": "push_every_steps",
        "pull_every": "pull_every_steps", "snapshot_every": "snapshot_every_steps",
    },
    "modules.data.skip_grams.SkipGrams": {
        "num_noise": "num_negatives", "noise_power": "negative_power", "subsample_share": "subsample_threshold",
    },
    "modules.data.image_folder.ImageFolder": CROP,
    "modules.data.image_shards.ImageShards": CROP,
    "modules.objective.noise_contrastive.NoiseContrastive": {"noise_per_pair": "num_negatives_per_pair"},
    "modules.evaluator.translation.Translation": {"num_shown": "num_examples_logged"},
    "modules.evaluator.accuracy.Accuracy": {"num_shown": "top_k_shown"},
}  # fmt: skip
"""By class that `_target_` names, its arguments."""
OPTIONS = {"hardware": {"rehearsal": "local_cluster"}}
"""By group, its options."""
SWEEP = {
    "": {"note": "description", "given": "points", "seeds": "num_seeds"},
    "budget": {"points": "max_points"},
}
"""By section of a sweep, its keys."""
INTERVAL = {"whole": "integer"}
"""The keys of an interval of a search space."""
STRATEGIES = {"given": "list"}
STATES = {"waiting": "pending", "stopped": "interrupted"}
METRICS = {
    "perf/data_wait_share": "perf/data_wait_fraction",
    "perf/bubble_share": "perf/bubble_fraction",
    "async/server_busy_share": "async/server_busy_fraction",
}
METRIC_PREFIXES = {"async/stale_share/": "async/stale_fraction/"}

Renames = Mapping[str, str]
"""New dotted key by old one."""


def experiment_keys() -> Iterator[tuple[str, str]]:
    """Every renamed key of an experiment, old and new, as an override names it."""
    for section, names in SECTIONS.items():
        yield from ((f"{section}.{old}".lstrip("."), f"{section}.{new}".lstrip(".")) for old, new in names.items())
    for target, names in ARGUMENTS.items():
        package, group = target.split(".")[:2]
        section = "launcher" if package == "launchers" else group
        yield from ((f"{section}.{old}", f"{section}.{new}") for old, new in names.items())


def experiment_options() -> Iterator[tuple[str, str]]:
    """Every renamed option of an experiment, old and new, as an override chooses it."""
    for group, names in OPTIONS.items():
        yield from ((f"{group}={old}", f"{group}={new}") for old, new in names.items())


def sweep_keys() -> Iterator[tuple[str, str]]:
    """Every renamed key of a sweep, old and new, as an override names it."""
    for section, names in SWEEP.items():
        for old, new in names.items():
            yield ".".join(filter(None, ("sweep", section, old))), ".".join(filter(None, ("sweep", section, new)))


def new_names(old: Any) -> list[str]:
    """Today's names of an old key, alone or with its section, of a metric, a state or a strategy; none for other names."""
    if not isinstance(old, str):  # a key of YAML may be a number
        return []
    tables = [*SECTIONS.values(), *ARGUMENTS.values(), *OPTIONS.values(), *SWEEP.values(), INTERVAL, STRATEGIES, STATES]
    names = [table[old] for table in tables if old in table]
    names += [new for key, new in (*experiment_keys(), *sweep_keys()) if key == old]
    names += [new for new in [metric(old)] if new != old]
    return list(dict.fromkeys(names))


def new_name(old: Any, known: Collection[str]) -> str | None:
    """Today's name of an old one, if it is valid where the user wrote the old one."""
    return next((new for new in new_names(old) if new in known), None)


def suggestion(name: str, known: Collection[str], otherwise: str = "") -> str:
    """The fix for an unknown name: its new name if it was renamed, else a "did you mean" hint."""
    new = new_name(name, known)
    return did_you_mean(name, known, otherwise) if new is None else f"it is now called {new!r}"


OLD_KEYS = frozenset(old for old, _ in experiment_keys())


def metric(name: str) -> str:
    """Today's name of a metric."""
    if name in METRICS:
        return METRICS[name]
    old = next((prefix for prefix in METRIC_PREFIXES if name.startswith(prefix)), None)
    return name if old is None else METRIC_PREFIXES[old] + name.removeprefix(old)


def state(name: str) -> str:
    """Today's name of the state of a run or a trial."""
    return STATES.get(name, name)


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, or some keys of its root, with today's names."""
    upgraded: dict[str, Any] = _translate(config, "", is_inverse=False)
    return upgraded


def original(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the names of the first version: the inverse of `upgrade`."""
    first: dict[str, Any] = _translate(config, "", is_inverse=True)
    return first


def _translate(node: Any, key: str, *, is_inverse: bool) -> Any:
    if isinstance(node, list):
        return [_translate(item, f"{key}[]", is_inverse=is_inverse) for item in node]
    if not isinstance(node, Mapping):
        return node
    names = _names(node, key)
    names = {new: old for old, new in names.items()} if is_inverse else names
    return {
        names.get(name, name): _translate(value, f"{key}.{name}".lstrip("."), is_inverse=is_inverse)
        for name, value in node.items()
    }


def _names(node: Mapping[str, Any], key: str) -> Mapping[str, str]:
    """The renamed keys of one section or class."""
    return SECTIONS.get(key) or ARGUMENTS.get(str(node.get("_target_"))) or {}


def renames(config: Mapping[str, Any]) -> dict[str, str]:
    """The renamed options, and the renamed keys of one configuration, by old name: a class of the user's keeps its arguments."""
    names = dict(experiment_options())

    def walk(node: Any, key: str) -> None:
        if isinstance(node, Mapping):
            prefix = f"{key}." if key else ""
            names.update({f"{prefix}{old}": f"{prefix}{new}" for old, new in _names(node, key).items()})
            for name, value in node.items():
                walk(value, f"{prefix}{name}")

    walk(config, "")
    return names


def upgrade_overrides(overrides: Sequence[str], names: Renames) -> list[str]:
    """Overrides with today's keys and options.

    Args:
        overrides: as they were typed.
        names: from `renames`, of the configuration that they compose.
    """
    return [
        names.get(override) or re.sub(r"^([+~]*)([^=]*)", lambda key: key[1] + names.get(key[2], key[2]), override)
        for override in overrides
    ]


def original_overrides(overrides: Sequence[str], config: Mapping[str, Any] | None = None) -> list[str]:
    """Overrides with the keys and options of the first version: the inverse of `upgrade_overrides`.

    Args:
        overrides: with today's names.
        config: that they compose; None: any, so every renamed key is translated.
    """
    names = (*experiment_options(), *experiment_keys()) if config is None else renames(config).items()
    return upgrade_overrides(overrides, {new: old for old, new in names})


def upgrade_keys(values: Mapping[str, Any], names: Renames) -> dict[str, Any]:
    """Values by dotted key, with today's keys."""
    return {names.get(key, key): value for key, value in values.items()}


def upgrade_links(links: Mapping[str, str], names: Renames) -> dict[str, str]:
    """Keys that follow others, such as ``${data.num_classes}``, with today's keys on both sides."""
    follow = re.compile(r"\$\{([\w.]+)\}")
    return {
        names.get(key, key): follow.sub(lambda link: f"${{{names.get(link[1], link[1])}}}", text)
        for key, text in links.items()
    }


def upgrade_sweep(spec: Mapping[str, Any], names: Renames) -> dict[str, Any]:
    """The spec of a sweep with today's names.

    Args:
        spec: the content of its sweep.yaml.
        names: from `renames`, of all its configurations.
    """
    upgraded = {SWEEP[""].get(key, key): value for key, value in spec.items()}
    for section, table in SWEEP.items():
        if section and isinstance(upgraded.get(section), Mapping):
            upgraded[section] = {table.get(key, key): value for key, value in upgraded[section].items()}
    strategy = upgraded["strategy"]
    upgraded["strategy"] = {**strategy, "name": STRATEGIES.get(strategy["name"], strategy["name"])}
    upgraded["base"] = upgrade_overrides(upgraded["base"], names)
    upgraded["points"] = [upgrade_overrides(point, names) for point in upgraded["points"]]
    upgraded["space"] = upgrade_space(upgraded["space"], names)
    return upgraded


def upgrade_space(space: Mapping[str, Any], names: Renames) -> dict[str, Any]:
    """The frozen search space of a sweep with today's names."""
    return {
        names.get(key, key): _upgrade_dimension(node, names) if isinstance(node, Mapping) else node
        for key, node in space.items()
    }


def _upgrade_dimension(node: Mapping[str, Any], names: Renames) -> dict[str, Any]:
    """An interval, or the options of a group, each with further keys."""
    if "low" in node and not isinstance(node["low"], Mapping):
        return {INTERVAL.get(name, name): value for name, value in node.items()}
    return {
        option: upgrade_space(inner, names) if isinstance(inner, Mapping) else inner for option, inner in node.items()
    }
