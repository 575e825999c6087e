"""What a resume may change: where and how a training runs, never what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.arrangement import is_open
from experiments.faults import InputError
from experiments.trial import Trial

CHANGEABLE = (
    "parallel", "hardware", "launcher", "batch_size_per_device", "batch_size_eval", "num_data_workers", "precision",
)  # fmt: skip


def changes(trial: Trial, overrides: Sequence[str], trust: Sequence[str] = ()) -> dict[str, Any]:
    """The keys of the root, with their new values, that overrides change for the next attempt.

    The overrides are composed on top of those that the trial was made of; of the result only the changed keys count.

    Raises:
        InputError: they change something else, or do not compose.
    """
    if not overrides:
        return {}
    roots = [override.lstrip("+~").partition("=")[0].partition(".")[0] for override in overrides]
    strange = sorted({root for root in roots if root not in CHANGEABLE})
    if strange:
        problems = [
            f"{root}: a resume changes only {', '.join(CHANGEABLE)}; start a new run with `lathe run`"
            for root in strange
        ]
        raise InputError(problems, f"the resume of '{trial.folder.name}'")
    from experiments.compose import compose

    provenance = trial.provenance
    composed = compose(
        [*provenance["overrides"], *overrides],
        config_dirs=provenance["config_dirs"],
        trust=[*provenance["trust"], *trust],
    ).config
    if is_open(composed):
        raise InputError(["parallel=auto is chosen before a run is frozen; name the layout that `lathe plan` shows for it"])
    return {root: composed[root] for root in dict.fromkeys(roots)}
