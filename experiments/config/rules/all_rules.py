"""Every rule between keys; what they find, told at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from experiments.config.rules import async_replicas as replica_rules
from experiments.config.rules import slurm as site
from experiments.config.rules import topology as arrangement
from experiments.config.rules.base import NOT_NEGATIVE, POSITIVE, ConfigView, NotApplicable
from experiments.config.rules.model_name import fault_of
from experiments.core.data_files import find_missing

RESERVED_TAGS = ("mlflow.", "lathe.")


def find_problems(config: dict[str, Any], told: Collection[str] = ()) -> list[str]:
    """Every reason why a configuration cannot run, as far as it can be judged: it may itself be faulty.

    Args:
        config: keys may be missing, and values of the wrong kind; whoever composed it has told of those.
        told: further keys whose value is not what it looks like, or may not be shown.
    """
    facts = ConfigView(config, told)
    problems = [problem for key in (*POSITIVE, *NOT_NEGATIVE) if (problem := facts.out_of_range(key)) is not None]
    for rule in RULES:
        try:
            found = rule(facts)
        except NotApplicable:  # what is wrong with the numbers it needs is told
            continue
        problems += [found] if isinstance(found, str) else found or []
    return problems


def _mfu(facts: ConfigView) -> str | None:
    mfu = facts.get("hardware.mfu", int, float)
    if 0 < mfu <= 1:
        return None
    return f"hardware.mfu={mfu} is not between 0 and 1; write a number such as 0.3"


def _best_metric(facts: ConfigView) -> str | None:
    best = facts.get("checkpoint.best_metric", str)
    if best.startswith("val/"):
        return None
    return f"checkpoint.best_metric={best} is no metric of the evaluation; name one such as val/loss_nats"


def _tags(facts: ConfigView) -> list[str]:
    taken = [key for key in facts.get("tags", dict) if str(key).startswith(RESERVED_TAGS)]
    return [f"tags.{key}: MLflow and Lathe keep names that begin so for themselves; choose another" for key in taken]


def _registered_name(facts: ConfigView) -> str | None:
    name = facts.get("tracking.register_as", str)
    if not facts.get("tracking.log_model", bool):
        return f"tracking.register_as={name} needs a model that is logged; set tracking.log_model=true"
    return fault_of("tracking.register_as", name)


def _files(facts: ConfigView) -> str | None:
    """Files that are not there, before anything queues; their content is checked when they are read."""
    data, root, name = facts.get("data", dict), facts.get("data.root", str), facts.get("data.folder", str)
    if "files" in data:
        facts.get("data.files", list, dict)
    try:
        found = find_missing(data)
    except KeyError as err:
        return f"data.root={root} needs the environment variable {err.args[0]}; `export {err.args[0]}=...`"
    if found is None:
        return None
    are = "is" if len(found.files) == 1 else "are"
    told = f"{', '.join(found.files)} {are} not in" if found.files else "there is no folder"
    return (
        f"data.folder={name}: {told} {found.folder}; put the files there or point LATHE_DATA at a folder that has them "
        "(`lathe data` names their source)"
    )


def _enough_examples(facts: ConfigView) -> str | None:
    batch_size, num_train = facts.whole("batch_size_global"), facts.argument("data", "num_train")
    if num_train is None or batch_size <= num_train:
        return None
    return f"batch_size_global={batch_size} is more than the {num_train} training examples; lower it"


def _length(facts: ConfigView) -> str | None:
    """One of the two says how long; told also where the one that is given is out of its range."""
    max_steps, max_epochs = (facts.get(key, int, type(None)) for key in ("max_steps", "max_epochs"))
    if (max_steps is None) != (max_epochs is None):
        return None
    steps, epochs = ("null" if value is None else value for value in (max_steps, max_epochs))
    way_out = "give one" if max_steps is None else f"write `max_steps=null max_epochs={epochs}`, or the other way round"
    return f"max_steps={steps} and max_epochs={epochs}: exactly one says how long to train; {way_out}"


def _epochs(facts: ConfigView) -> str | None:
    max_epochs = facts.whole_or_none("max_epochs")
    if max_epochs is None or facts.get("max_steps", int, type(None)) is not None or facts.argument("data", "num_train"):
        return None
    return f"max_epochs={max_epochs} needs data.num_train, the number of training examples; give it, or max_steps"


def _warmup(facts: ConfigView) -> str | None:
    max_steps, max_epochs = facts.whole_or_none("max_steps"), facts.whole_or_none("max_epochs")
    warmup = facts.argument("schedule", "warmup_steps") or 0
    if (max_steps is None) == (max_epochs is None):
        return None
    num_steps, named = max_steps, f"max_steps={max_steps}"
    if max_epochs is not None:
        num_steps = max_epochs * ((facts.argument("data", "num_train") or 0) // facts.whole("batch_size_global"))
        named = f"max_epochs={max_epochs} ({num_steps} steps)"
    if not num_steps or warmup <= num_steps:  # none: that the data are too few is told
        return None
    return f"schedule.warmup_steps={warmup} is longer than {named}; lower the one or raise the other"


RULES: tuple[Callable[[ConfigView], str | list[str] | None], ...] = (
    _mfu, _best_metric, _tags, _registered_name, _files, *arrangement.RULES, *replica_rules.RULES, _enough_examples,
    _length, _epochs, _warmup,
    *site.RULES,
)  # fmt: skip
