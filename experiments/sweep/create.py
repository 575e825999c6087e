"""The launching side of a sweep: question to frozen trials on disk, and workers for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.config import options
from experiments.config.allowlist import trusted
from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.config.rules import slurm as site
from experiments.core.atomic import write_text
from experiments.core.errors import InputError, PlanError
from experiments.sweep.expand import expand_point
from experiments.sweep.ledger import LedgerState
from experiments.sweep.spec import SweepSpec
from experiments.sweep.sweep import ADAPTIVE, Sweep
from experiments.sweep.templates import Template, Templates, check_links
from experiments.trial.code_copy import CODE, copy_packages
from experiments.trial.trial import create_run_folder, make_provenance, resolve_runs_dir, to_yaml
from launchers.base import WORKER_MODULE

MOST_TOLD = 10


@dataclass(frozen=True)
class SweepDraft:
    """A sweep that is not on disk yet: every trial that is known before one has run, checked."""

    spec: SweepSpec
    experiment: Experiment
    """One of its experiments; what it does not share with the others stands in the templates."""
    templates: Templates
    trials: list[dict[str, Any]]


def prepare(
    spec: SweepSpec,
    *,
    config_dirs: Sequence[str] = (),
    trust: Sequence[str] = (),
    experiment: Experiment | None = None,
) -> SweepDraft:
    """Compose what the space's choices of options ask for, and fill every point in.

    Args:
        spec: what is asked.
        config_dirs: folders with further groups and options.
        trust: packages beyond the house's own whose classes `_target_` may name.
        experiment: what stands already, of a question whose space is empty; None: it is composed.

    Raises:
        InputError: with every problem of every trial.
    """
    templates, experiment = _compose_all(spec, config_dirs, trust, experiment)
    found = list(_trials(spec, templates, LedgerState()))
    return SweepDraft(spec, experiment, templates, found)


def _compose_all(
    spec: SweepSpec, config_dirs: Sequence[str], trust: Sequence[str], given: Experiment | None = None
) -> tuple[Templates, Experiment]:
    groups = options.groups(options.user_folders(config_dirs))
    templates: list[Template] = []
    for choices in spec.choices(groups):
        chosen = [f"{group}={option}" for group, option in choices.items()]
        experiment = given or compose([*spec.values["base"], *chosen], config_dirs=config_dirs, trust=trust)
        # Of the whole worker, before a trial is given a part of it.
        if problems := site.find_problems(experiment.config):
            raise PlanError(problems, f"the sweep '{spec.values['name']}'")
        templates.append(Template.from_experiment(experiment, choices, _hardware_of_a_trial(experiment.config)))
    problems = [problem for template in templates for problem in check_links(template, spec.keys)]
    if problems:
        raise InputError(list(dict.fromkeys(problems)), f"the sweep '{spec.values['name']}'")
    return Templates(templates, trusted(trust), tuple(config_dirs)), experiment


def _hardware_of_a_trial(config: dict[str, Any]) -> dict[str, int]:
    """What a trial sees of a worker's hardware."""
    part = config["launcher"].get("devices_per_trial")
    return {} if part is None else {"nodes": 1, "devices_per_node": part}


def _trials(spec: SweepSpec, templates: Templates, ledger_state: LedgerState) -> Iterator[dict[str, Any]]:
    """Those that are known before one has run, but for what the ledger has already.

    Raises:
        PlanError: with every problem of every point.
    """
    problems: dict[str, list[str]] = {}
    asked, num_points = spec.values, 0
    is_adaptive = asked["strategy"]["name"] in ADAPTIVE  # then its points are examples, and none of them is a trial yet
    known = {entry.id for entry in ledger_state.entries.values()}
    elsewhere = _finished_elsewhere(templates, asked) if asked["reuse"] else {}
    numbers = {_as_key(entry.values): entry.point for entry in ledger_state.entries.values()}
    for values in spec.preview_points():
        point = numbers.setdefault(_as_key(values), len(numbers))
        try:
            for trial in expand_point(asked, templates, ledger_state, point, values):
                if trial["trial"].partition("-")[0] not in known and not is_adaptive:
                    known.add(trial["trial"])
                    yield {**trial, "reused": trial["reused"] or elsewhere.get(trial["trial"])}
        except PlanError as err:
            for problem in err.problems:
                problems.setdefault(problem, []).append(err.subject.removeprefix("the "))
        num_points += 1
    if problems:
        told = [f"{problem}{_where(points, num_points)}" for problem, points in problems.items()]
        raise PlanError(told[:MOST_TOLD], f"the sweep '{asked['name']}'")


def _where(points: list[str], num_points: int) -> str:
    """Which points have a problem; "" where all have it, or the problem itself names what is wrong."""
    if len(points) == num_points:
        return ""
    more = f" and {len(points) - 1} more" if len(points) > 1 else ""
    return f" [{points[0]}{more}]"


def _finished_elsewhere(templates: Templates, asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By trial id, the finished trials of all sweeps in the runs folder that measured the same."""
    found: dict[str, dict[str, Any]] = {}
    for path in resolve_runs_dir(templates.all[0].config).glob("*/sweep.yaml"):
        sweep = Sweep(path.parent)
        if any(sweep.spec[key] != asked[key] for key in ("metric", "mode")):
            continue
        for entry in sweep.ledger().read().entries.values():
            if entry.state == "finished" and entry.reused is None:
                found[entry.id] = {"folder": f"{sweep.name}/{entry.id}", "value": entry.value}
    return found


def _as_key(values: dict[str, Any]) -> str:
    return repr(sorted(values.items()))


def write(draft: SweepDraft) -> Sweep:
    """Put a sweep on disk; its folder is named by the spec, with a number behind where there is one already.

    Raises:
        InputError: it cannot be written.
    """
    runs_dir = resolve_runs_dir(draft.experiment.config)
    with create_run_folder(runs_dir, draft.spec.name) as folder:
        copy_packages(trusted(draft.experiment.trust), folder / CODE)
        provenance = make_provenance(draft.experiment, folder, runs_dir)
        hardware = draft.experiment.config["hardware"]
        provenance["worker"] = {key: hardware[key] for key in ("nodes", "devices_per_node")}
        provenance["worker_module"] = WORKER_MODULE
        write_text(folder / "provenance.yaml", to_yaml(provenance))
        draft.templates.save(folder)
        (folder / "workers").mkdir()
        # Last of all: it is what makes the folder a sweep.
        write_text(folder / "sweep.yaml", draft.spec.to_yaml())
    sweep = Sweep(folder)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.add(draft.trials)
    return sweep


def extend(sweep: Sweep, overrides: Sequence[str]) -> int:
    """Take further values, budget or seeds into a sweep; how many trials are new.

    Raises:
        InputError: they change what its trials share, which only a new sweep can.
    """
    spec = SweepSpec.load(sweep.folder)
    provenance = sweep.provenance
    if overrides and provenance.get("source"):
        told = f"{overrides[0]}: the sweep '{sweep.name}' is one run of a shared file; run it again with `lathe run --from`"
        raise InputError([told])
    if "worker_module" not in provenance:  # its workers run the code of the first version
        if overrides:
            message = (
                f"{overrides[0]}: an earlier version of Lathe began sweep '{sweep.name}', and its workers do not know "
                "today's keys; start another sweep, or resume it without changes"
            )
            raise InputError([message])
        return 0
    asked = spec.extend(overrides, provenance["config_dirs"])
    before = sweep.templates()
    composed, _ = _compose_all(asked, provenance["config_dirs"], provenance["trust"]) if overrides else (before, None)
    known = [template.choices for template in before.all]
    templates = Templates(
        [*before.all, *(template for template in composed.all if template.choices not in known)],
        before.trust,
        before.config_dirs,
    )
    ledger = sweep.ledger()
    with ledger.locked() as ledger_state:
        trials = list(_trials(asked, templates, ledger_state))
        if overrides:
            templates.save(sweep.folder)
            write_text(sweep.folder / "sweep.yaml", asked.to_yaml())
        ledger.add(trials)
    return len(trials)
