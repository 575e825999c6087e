"""What a resume may change: where and how a training runs, not what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.config.rules.topology import is_open
from experiments.core.errors import InputError
from experiments.trial.trial import Trial

CHANGEABLE = (
    "parallel", "hardware", "launcher", "batch_size_per_device", "batch_size_eval", "num_data_workers",
)  # fmt: skip


def _root(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def compose_changes(trial: Trial, overrides: Sequence[str], trust: Sequence[str] = ()) -> dict[str, Any]:
    """The keys of the root, with their new values, that overrides change for the next attempt.

    The overrides are composed on top of those that the trial was made of, but for what an option that is chosen anew
    replaces; of the result only the changed keys count. They hold for one attempt.

    Raises:
        InputError: they change something else, or do not compose.
    """
    if not overrides:
        return {}
    roots = [_root(override) for override in overrides]
    anew = {override.partition("=")[0] for override in overrides}  # whole options, as in parallel=data
    if "parallel" in anew:
        roots.append("batch_size_per_device")  # which was for the topology before, unless it is given too
        anew.add("batch_size_per_device")
    strange = sorted({root for root in roots if root not in CHANGEABLE})
    if strange:
        problems = [
            f"{root}: a resume changes only {', '.join(CHANGEABLE)}; start a new run with `lathe run`"
            for root in strange
        ]
        raise InputError(problems, f"the resume of '{trial.folder.name}'")
    from experiments.config.compose import change, compose

    provenance = trial.provenance
    dirs, packages = provenance["config_dirs"], [*provenance["trust"], *trust]
    if provenance.get("source"):
        composed = change(trial.config, overrides, trial.id, config_dirs=dirs, trust=packages).config
    else:
        before = [word for word in provenance["overrides"] if _root(word) not in anew]
        composed = compose([*before, *overrides], config_dirs=dirs, trust=packages).config
    if is_open(composed):
        raise InputError(
            ["parallel=auto is chosen before a run is frozen; name the layout that `lathe plan` shows for it"]
        )
    return {root: composed[root] for root in dict.fromkeys(roots)}
