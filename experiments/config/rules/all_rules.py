"""Checks all validation rules between keys and reports their problems together."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from experiments.config.rules import adapter as adapter_rules
from experiments.config.rules import async_replicas as replica_rules
from experiments.config.rules import objective as objective_rules
from experiments.config.rules import optimizer as optimizer_rules
from experiments.config.rules import slurm as slurm_rules
from experiments.config.rules import task as task_rules
from experiments.config.rules import topology as topology_rules
from experiments.config.rules import vocabulary as vocabulary_rules
from experiments.config.rules.base import ConfigView, NotApplicable
from experiments.config.rules.model_name import find_name_fault
from experiments.core.data_files import find_missing
from experiments.core.format import Unknown

RESERVED_TAGS = ("mlflow.", "lathe.")
TRACKER_PACKAGES = {
    "experiments.tracking.trackers.tensorboard.TensorBoard": "tensorboard",
    "experiments.tracking.trackers.wandb.Wandb": "wandb",
}
"""The extra that each of these trackers needs; it has the name of its package."""
MAX_EXPERIMENT_NAME = 500
"""Letters of the name of an experiment in MLflow 3.17."""


def find_problems(config: dict[str, Any], reported: Collection[str] = ()) -> list[str]:
    """Every reason why a configuration cannot run.

    Args:
        config: may have missing keys or values of the wrong type, which the schema check reports; their rules are skipped.
        reported: further keys to skip, because another check reports them.
    """
    view = ConfigView(config, reported)
    ranged = (*view.positive_keys(), *view.not_negative_keys())
    problems = [problem for key in ranged if (problem := view.out_of_range(key)) is not None]
    for rule in RULES:
        try:
            result = rule(view)
        except NotApplicable:  # another rule or check reports the values that it needs
            continue
        problems += [result] if isinstance(result, str) else result or []
    return problems


def _mfu(view: ConfigView) -> str | None:
    mfu = view.get("hardware.mfu", int, float)
    if 0 < mfu <= 1:
        return None
    return f"hardware.mfu={mfu} is not between 0 and 1; write a number such as 0.3"


def _best_metric(view: ConfigView) -> str | None:
    best = view.get("checkpoint.best_metric", str)
    if best.startswith("val/"):
        return None
    return f"checkpoint.best_metric={best} is not a metric of the evaluation; write for example val/loss_nats"


def _tags(view: ConfigView) -> list[str]:
    taken = [key for key in view.get("tags", dict) if str(key).startswith(RESERVED_TAGS)]
    return [f"tags.{key}: the prefixes mlflow. and lathe. are reserved; choose another name" for key in taken]


def _registered_name(view: ConfigView) -> str | None:
    name = view.get("tracking.register_as", str)
    if not view.get("tracking.log_model", bool):
        return f"tracking.register_as={name} needs a logged model; set tracking.log_model=true"
    return find_name_fault("tracking.register_as", name)


def _tracking_experiment(view: ConfigView) -> str | None:
    """MLflow refuses the name only when the run is copied, after the training."""
    name = view.get("tracking.experiment", str)
    if not name.strip():
        return f"tracking.experiment={name!r} is empty; write a name, such as tracking.experiment=lathe"
    if len(name) <= MAX_EXPERIMENT_NAME:
        return None
    return (
        f"tracking.experiment={name[:20]}... has {len(name)} letters, and MLflow takes at most {MAX_EXPERIMENT_NAME}; "
        "write a shorter name"
    )


def _tracker_packages(view: ConfigView) -> list[str]:
    """Packages of extras that the trackers need. The process that copies the run would miss them only while it trains."""
    return [
        f"tracking.trackers.{name} needs the package '{package}', which is not installed; "
        f"`pip install 'lathe-dl[{package}]'`, or leave {name} out of tracking=[...]"
        for name, node in view.get("tracking.trackers", dict).items()
        if isinstance(node, dict)
        and (package := TRACKER_PACKAGES.get(str(node.get("_target_")))) is not None
        and importlib.util.find_spec(package) is None
    ]


def _tracker_names(view: ConfigView) -> list[str]:
    """A name is part of the name of a file. MLflow's other settings are for the tracker with its name."""
    trackers = view.get("tracking.trackers", dict)
    problems = [
        f"tracking.trackers.{name} is not a valid name of a tracker; use letters, digits, '_' and '-'"
        for name in trackers
        if not re.fullmatch(r"[\w-]+", str(name))
    ]
    if trackers and "mlflow" not in trackers and view.get("tracking.store", str, type(None)) is not None:
        problems.append(
            f"tracking.store is set, and it is MLflow's, but tracking.trackers has only {', '.join(map(str, trackers))}; "
            "add `mlflow: {_target_: experiments.tracking.trackers.mlflow.Mlflow}` to it, or remove the store"
        )
    return problems


def _files(view: ConfigView) -> list[str]:
    """Missing files of the data, of sets that they consist of, and of the evaluation sets; the content is checked later."""
    problems = []
    for key in [
        *_list_sets(view.config.get("data"), "data"),
        *_list_sets(view.config.get("evaluation_sets"), "evaluation_sets"),
    ]:
        with contextlib.suppress(NotApplicable):  # no files, or a value that another check reports
            problems.append(_find_missing_files(view, key))
    return [problem for problem in problems if problem is not None]


def _list_sets(node: object, key: str) -> Iterator[str]:
    """The keys of all data sets in a node."""
    if isinstance(node, dict):
        if "folder" in node:
            yield key
        for name, inner in node.items():
            yield from _list_sets(inner, f"{key}.{name}")


def _find_missing_files(view: ConfigView, key: str) -> str | None:
    data, root, name = view.get(key, dict), view.get(f"{key}.root", str), view.get(f"{key}.folder", str)
    if not root.strip():
        return "data_root is empty; write the folder that holds your data sets, or leave data_root out"
    if "files" in data:
        view.get(f"{key}.files", list, dict)
    try:
        missing = find_missing(data)
    except KeyError as err:
        return f"{key}.root={root} needs the environment variable {err.args[0]}; `export {err.args[0]}=...`"
    if missing is None or (not missing.files and any(isinstance(value, Unknown) for value in data.values())):
        return None  # the search for the unknown values reports a missing folder
    are = "is" if len(missing.files) == 1 else "are"
    message = f"{', '.join(missing.files)} {are} not in" if missing.files else "there is no folder"
    return (
        f"{key}.folder={name}: {message} {missing.folder}; put the files there or point LATHE_DATA at a folder that has them "
        "(`lathe data` names their source)"
    )


def _enough_examples(view: ConfigView) -> str | None:
    batch_size, num_train = view.integer("batch_size_global"), view.argument("data", "num_train")
    if num_train is None or batch_size <= num_train:
        return None
    return f"batch_size_global={batch_size} is more than the {num_train} training examples; lower it"


def _enough_to_overfit(view: ConfigView) -> str | None:
    num_train = view.argument("data", "num_train")
    batch_size, count = view.integer("batch_size_global"), view.integer("overfit_batches")
    if num_train is None or count * batch_size <= num_train or batch_size > num_train:
        return None
    return (
        f"overfit_batches={count} needs {count * batch_size} examples (batch_size_global={batch_size}), and there are "
        f"{num_train} training examples; use at most {num_train // batch_size}"
    )


def _length(view: ConfigView) -> str | None:
    """Exactly one of max_steps and max_epochs is set."""
    max_steps, max_epochs = (view.get(key, int, type(None)) for key in ("max_steps", "max_epochs"))
    if (max_steps is None) != (max_epochs is None):
        return None
    steps, epochs = ("null" if value is None else value for value in (max_steps, max_epochs))
    hint = "set one" if max_steps is None else f"write `max_steps=null max_epochs={epochs}`, or `max_epochs=null`"
    return f"max_steps={steps} and max_epochs={epochs}: exactly one of them must be set; {hint}"


def _epochs(view: ConfigView) -> str | None:
    max_epochs = view.integer_or_none("max_epochs")
    if max_epochs is None or view.get("max_steps", int, type(None)) is not None or view.argument("data", "num_train"):
        return None
    return f"max_epochs={max_epochs} needs data.num_train, the number of training examples; set it, or max_steps"


def _warmup(view: ConfigView) -> str | None:
    max_steps, max_epochs = view.integer_or_none("max_steps"), view.integer_or_none("max_epochs")
    warmup = view.argument("schedule", "warmup_steps") or 0
    if (max_steps is None) == (max_epochs is None):
        return None
    num_steps, named = max_steps, f"max_steps={max_steps}"
    if max_epochs is not None:
        num_steps = max_epochs * ((view.argument("data", "num_train") or 0) // view.integer("batch_size_global"))
        named = f"max_epochs={max_epochs} ({num_steps} steps)"
    if not num_steps or warmup <= num_steps:  # 0 steps: another rule reports too few examples
        return None
    return f"schedule.warmup_steps={warmup} is longer than {named}; lower the first or raise the second"


RULES: tuple[Callable[[ConfigView], str | list[str] | None], ...] = (
    _mfu, _best_metric, _tags, _registered_name, _tracking_experiment, _tracker_packages, _tracker_names, _files,
    *topology_rules.RULES,
    *replica_rules.RULES, _enough_examples, _enough_to_overfit, _length, _epochs, _warmup,
    *slurm_rules.RULES, *optimizer_rules.RULES, *objective_rules.RULES, *task_rules.RULES, *adapter_rules.RULES,
    *vocabulary_rules.RULES,
)  # fmt: skip
