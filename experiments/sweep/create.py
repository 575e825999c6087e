"""Creates a sweep: checks all its trials, and writes the spec, the code and the trials to disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.components.instantiate import check_trackers
from experiments.config import options
from experiments.config.allowlist import trusted
from experiments.config.auto_values import AUTO, find_best_metric
from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.config.rules import slurm
from experiments.core.atomic import write_text
from experiments.core.errors import InputError, PlanError
from experiments.sweep.earlier.finished_trials import FinishedTrials
from experiments.sweep.expand import expand_point, select_point
from experiments.sweep.ledger import LedgerState
from experiments.sweep.spec import SweepSpec
from experiments.sweep.strategies.make_strategy import is_adaptive, make_pruner, make_strategy
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import Template, Templates, check_links
from experiments.trial.code_copy import CODE, copy_packages, digest_packages
from experiments.trial.trial import create_run_folder, make_provenance, resolve_runs_dir, to_yaml
from launchers.base import WORKER_MODULE, WORKER_OPTIONS

MAX_PROBLEMS = 10


@dataclass(frozen=True)
class SweepDraft:
    """A checked sweep that is not on disk yet, with all trials that are known from the start."""

    spec: SweepSpec
    experiment: Experiment
    """One of its experiments; the differences to the others are in the templates."""
    templates: Templates
    trials: list[dict[str, Any]]
    code_sha256: str
    """Of the code that its trials run."""
    notes: list[str]
    """Lines on the trials whose results are reused, and on those that are not."""

    @property
    def runs_dir(self) -> Path:
        return resolve_runs_dir(self.experiment.config)


def prepare(
    spec: SweepSpec,
    *,
    config_dirs: Sequence[str] = (),
    trust: Sequence[str] = (),
    experiment: Experiment | None = None,
) -> SweepDraft:
    """Compose the configurations of the space's group options, and check every point.

    Args:
        spec: of the sweep.
        config_dirs: folders with more groups and options.
        trust: your packages whose classes `_target_` may name.
        experiment: an experiment that is composed already, for a spec with an empty space; None: compose it.

    Raises:
        InputError: with all problems of all trials.
    """
    templates, experiment = _compose_all(spec, config_dirs, trust, experiment)
    spec = fill_metric(spec, experiment.config)
    check_trackers(experiment.config, trusted(trust))
    make_strategy(spec.values["strategy"], trusted(trust))  # an error in it is reported now
    if spec.values["pruner"]:
        make_pruner(spec.values["pruner"], trusted(trust))
    trials = list(_list_trials(spec, templates, LedgerState()))
    code_sha256 = digest_packages(templates.trust, experiment.config_dirs, resolve_runs_dir(experiment.config))
    reused, notes = _find_results(spec, templates, trials, code_sha256)
    return SweepDraft(spec, experiment, templates, _with_results(trials, reused), code_sha256, notes)


def _compose_all(
    spec: SweepSpec, config_dirs: Sequence[str], trust: Sequence[str], given: Experiment | None = None
) -> tuple[Templates, Experiment]:
    groups = options.groups(options.user_folders(config_dirs))
    templates: list[Template] = []
    for choices in spec.choices(groups):
        chosen = [f"{group}={option}" for group, option in choices.items()]
        experiment = given or compose([*spec.values["base"], *chosen], config_dirs=config_dirs, trust=trust)
        # Check the whole worker, before a trial gets a part of it.
        if problems := slurm.find_problems(experiment.config):
            raise PlanError(problems, f"the sweep '{spec.values['name']}'")
        templates.append(Template.from_experiment(experiment, choices, _hardware_of_a_trial(experiment.config)))
    problems = [problem for template in templates for problem in check_links(template, spec.keys)]
    if problems:
        raise InputError(list(dict.fromkeys(problems)), f"the sweep '{spec.values['name']}'")
    return Templates(templates, trusted(trust), tuple(config_dirs)), experiment


def fill_metric(spec: SweepSpec, config: Mapping[str, Any]) -> SweepSpec:
    """Without a metric, trials are compared by the one that chooses the best checkpoint of the experiment, else by the loss."""
    if not spec.unset:
        return spec
    checkpoint, metric, mode = config["checkpoint"], spec.values["metric"], spec.values["mode"]
    best = checkpoint["best_metric"]
    if "metric" in spec.unset:
        metric = best if str(best).startswith("val/") else "val/loss_nats"
    if "mode" in spec.unset:
        by_name = find_best_metric(str(config["evaluator"].get("_target_")), metric, AUTO)[1]
        mode = checkpoint["best_mode"] if metric == best else by_name
    return replace(spec, values={**spec.values, "metric": metric, "mode": mode}, unset=frozenset())


def _hardware_of_a_trial(config: dict[str, Any]) -> dict[str, int]:
    """The part of a worker's hardware that one trial uses."""
    num_devices = config["launcher"].get("devices_per_trial")
    return {} if num_devices is None else {"nodes": 1, "devices_per_node": num_devices}


def _list_trials(spec: SweepSpec, templates: Templates, ledger_state: LedgerState) -> Iterator[dict[str, Any]]:
    """Trials that are known from the start and are not in the ledger yet.

    Raises:
        PlanError: with all problems of all points.
    """
    problems: dict[str, list[str]] = {}
    num_points = 0
    is_asked = is_adaptive(spec.values["strategy"])  # then the points are only checked
    known = {entry.id for entry in ledger_state.entries.values()}
    numbers = {_as_key(select_point(spec.values, entry.values)): entry.point for entry in ledger_state.entries.values()}
    for values in spec.preview_points():
        point = numbers.setdefault(_as_key(values), len(numbers))
        try:
            for trial in expand_point(spec.values, templates, ledger_state, point, values):
                if trial["trial"].partition("-")[0] not in known and not is_asked:
                    known.add(trial["trial"])
                    yield trial
        except PlanError as err:
            for problem in err.problems:
                problems.setdefault(problem, []).append(err.subject.removeprefix("the "))
        num_points += 1
    if problems:
        messages = [f"{problem}{_format_points(points, num_points)}" for problem, points in problems.items()]
        raise PlanError(messages[:MAX_PROBLEMS], f"the sweep '{spec.name}'")


def _format_points(points: list[str], num_points: int) -> str:
    """The points with a problem; "" if all have it."""
    if len(points) == num_points:
        return ""
    more = f" and {len(points) - 1} more" if len(points) > 1 else ""
    return f" [{points[0]}{more}]"


def _find_results(
    spec: SweepSpec, templates: Templates, trials: Sequence[Mapping[str, Any]], code_sha256: str | None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The results of finished runs that stand for new trials, by trial id; and lines on them for the user.

    Args:
        spec: of the sweep.
        templates: of the sweep.
        trials: the new ones.
        code_sha256: of the code that they would run.
    """
    config, values = templates.all[0].config, spec.values
    if not values["reuse"] or config.get("fast_dev_run"):
        return {}, []
    ids = [trial["trial"] for trial in trials if trial["reused"] is None]
    finished = FinishedTrials(resolve_runs_dir(config), code_sha256, dict.fromkeys(ids), config)
    results: dict[str, dict[str, Any]] = {}
    for identity, trial in finished.runs.items():
        value = finished.read_value(identity, values["metric"], values["mode"])
        if value is not None:
            results[identity] = {"folder": f"{trial.folder.parent.name}/{trial.folder.name}", "value": value}
    return results, finished.describe(results)


def _with_results(trials: Iterable[dict[str, Any]], results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**trial, "reused": trial["reused"] or results.get(trial["trial"])} for trial in trials]


def _as_key(values: dict[str, Any]) -> str:
    return repr(sorted(values.items()))


def write(draft: SweepDraft) -> Sweep:
    """Write a sweep to disk. Its folder has the name of the spec, with a number appended if the folder exists.

    Raises:
        InputError: it cannot be written.
    """
    runs_dir = draft.runs_dir
    with create_run_folder(runs_dir, draft.spec.name) as folder:
        copy_packages(draft.templates.trust, folder / CODE)
        provenance = make_provenance(draft.experiment, folder, runs_dir)
        hardware = draft.experiment.config["hardware"]
        provenance["worker"] = {key: hardware[key] for key in ("nodes", "devices_per_node")}
        provenance["worker_module"], provenance["worker_options"] = WORKER_MODULE, [*WORKER_OPTIONS]
        write_text(folder / "provenance.yaml", to_yaml(provenance))
        draft.templates.save(folder)
        (folder / "workers").mkdir()
        # Last: a folder is a sweep if it has this file.
        write_text(folder / "sweep.yaml", draft.spec.to_yaml())
    sweep = Sweep(folder, draft.templates.trust)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.add(draft.trials)
    return sweep


def extend(
    sweep: Sweep, overrides: Sequence[str], trust: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> int:
    """Add values, budget or seeds to a sweep; returns the number of new trials.

    Args:
        sweep: the sweep.
        overrides: what to add.
        trust: the user's trusted packages and folders.
        say: shows which results are reused.

    Raises:
        InputError: an override changes anything that its trials share.
    """
    spec = SweepSpec.load(sweep.folder)
    provenance = sweep.provenance
    if overrides and provenance.get("source"):
        message = f"{overrides[0]}: the sweep '{sweep.name}' is one run of a shared file; run it again with `lathe run --from`"
        raise InputError([message])
    if "worker_module" not in provenance:  # its workers run the code of the first version
        if overrides:
            message = (
                f"{overrides[0]}: an earlier version of Lathe began sweep '{sweep.name}', and its workers do not know "
                "today's keys; start another sweep, or resume it without changes"
            )
            raise InputError([message])
        return 0
    extended = spec.extend(overrides, provenance["config_dirs"], sweep.trust)
    before = sweep.templates()
    # Folders that are trusted matter only here: what is composed once stays in the templates.
    composed, _ = (
        _compose_all(extended, provenance["config_dirs"], [*sweep.trust, *trust]) if overrides else (before, None)
    )
    known = [template.choices for template in before.all]
    templates = Templates(
        [*before.all, *(template for template in composed.all if template.choices not in known)],
        before.trust,
        before.config_dirs,
    )
    ledger, results = sweep.ledger(), dict[str, dict[str, Any]]()
    if overrides:  # before the lock, as it can take a while; workers run the sweep's copy of the code
        new = list(_list_trials(extended, templates, ledger.read()))
        results, notes = _find_results(extended, templates, new, provenance.get("code_sha256"))
        for note in notes:
            say(note)
    with ledger.locked() as ledger_state:
        trials = _with_results(_list_trials(extended, templates, ledger_state), results)
        if overrides:
            templates.save(sweep.folder)
            write_text(sweep.folder / "sweep.yaml", extended.to_yaml())
        ledger.add(trials)
    return len(trials)
