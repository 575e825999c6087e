"""What chooses the points of a sweep and ends bad ones early: a durable Optuna study that any number of processes share."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import optuna
import yaml
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from experiments.core import lock
from experiments.core.errors import InputError
from experiments.core.secrets import resolve
from experiments.run.journal import cut_torn_tail
from experiments.sweep.ledger import ENDED, Entry, LedgerState
from experiments.sweep.samplers import PerTrialSampler, as_optuna, ask
from experiments.sweep.space import Space
from experiments.sweep.space_parser import parse

FILE = "study.log"
INSTEAD_OF = "instead_of"
"""Attribute of a study's trial: the number of the one whose place it takes, as none can be opened or told again."""
PRUNED_AT = "pruned_at"
"""Attribute of a study's trial: the step at which it was decided that it ends."""
MEDIAN_STARTUP = 5
"""Points that end before the median of them says something."""
CONNECT_S = 10
MOST_SAID = 300
Verdict = tuple[TrialState, float | None]


class Study:
    """One process's hold of a sweep's study.

    The ledger is the truth, and the study follows it: `tell` brings it up to date as often as one likes, and what a
    process left undone when it was killed is mended by whoever comes next. A point has one trial in the study, however
    many seeds it has: at its end the study is told their mean; on the way, the first of them to reach a step speaks for
    the point there, and what is decided holds for all. A trial of the study that ended cannot be opened again: where the
    ledger's goes on, by another attempt or with further seeds, a copy takes its place under the number of the first.
    """

    def __init__(self, folder: Path, question: Mapping[str, Any], space: Space | None = None) -> None:
        """Open the study, which is made where there is none.

        Args:
            folder: the sweep's, which every machine sees.
            question: by the keys of `experiments.config.schema.SweepSchema`.
            space: the question's, where it has been read already.

        Raises:
            InputError: the storage that the question names cannot be reached.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = parse(question["space"]) if space is None else space
        strategy: Mapping[str, Any] = question["strategy"]
        name, address = str(question["name"]), strategy["storage"]
        if address is not None:
            name = f"{name}-{_run_key(folder)}"
        # One after the other: of several that make the tables of a database at once, all but one fail.
        with _told(address), lock.locked(folder / "study.open"):
            self._storage = _open(folder, address)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize" if question["mode"] == "max" else "minimize",
                sampler=PerTrialSampler(strategy, self.space),
                pruner=_pruner(question["pruner"], folder),
                load_if_exists=True,
            )
            self._id = self._storage.get_study_id_from_name(name)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Let the strategy choose a point: the number of the study's trial, and the values by key.

        Whoever asks holds the ledger's lock until the ledger knows the number; `tell` takes the trial for lost otherwise.
        """
        return ask(self._study, self.space)

    def enroll(self, values: Mapping[str, Any]) -> int:
        """Let a point that somebody else chose take part; the number of the study's trial. Hold the lock as with `ask`."""
        params, distributions = as_optuna(self.space, values, self._study.get_trials(deepcopy=False))
        return self._add(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)).number

    def tell(self, standing: LedgerState) -> None:
        """Bring the study to where the ledger stands. Whoever calls holds the ledger's lock."""
        verdicts = {
            entries[0].number: _verdict(entries)
            for entries in standing.points().values()
            if entries[0].number is not None
        }
        for number, trial in self._latest().items():
            if number in verdicts:
                self._bring(number, trial, verdicts[number])
            elif not trial.state.is_finished():  # its process ended before the ledger knew of it
                self._end(trial, (TrialState.FAIL, None))

    def should_prune(self, number: int, step: int, value: float) -> bool:
        """Report a value of the metric, and decide whether its trial is to end.

        A step that was reported before, as after a resume, is not reported again.

        Args:
            number: of the study's trial, as `ask` or `enroll` gave it.
            step: how far the training is.
            value: of the metric there.
        """
        trial = self._latest()[number]
        if trial.state == TrialState.FAIL:  # it was given another attempt, of which the study was not told yet
            trial = self._copy(number, trial, (TrialState.RUNNING, None))
        if not trial.state.is_finished() and PRUNED_AT not in trial.user_attrs:
            try:
                return self._report(trial, step, value)
            except UpdateFinishedTrialError:  # by another seed's end
                trial = self._latest()[number]
        return trial.state == TrialState.PRUNED or PRUNED_AT in trial.user_attrs

    def _report(self, trial: FrozenTrial, step: int, value: float) -> bool:
        is_bad = math.isnan(value)
        if not is_bad and step not in trial.intermediate_values:
            self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
            if step > max(trial.intermediate_values, default=-1):
                is_bad = self._study.pruner.prune(self._study, self._storage.get_trial(trial._trial_id))
        if is_bad:
            self._storage.set_trial_user_attr(trial._trial_id, PRUNED_AT, step)
        return is_bad

    def _latest(self) -> dict[int, FrozenTrial]:
        """The study's trials by the number that the ledger knows; of copies the last."""
        trials = self._study.get_trials(deepcopy=False)
        return {trial.user_attrs.get(INSTEAD_OF, trial.number): trial for trial in trials}

    def _bring(self, number: int, trial: FrozenTrial, verdict: Verdict | None) -> None:
        if verdict is None:
            if trial.state in (TrialState.FAIL, TrialState.PRUNED):  # it was given another attempt
                self._copy(number, trial, (TrialState.RUNNING, None))
        elif not trial.state.is_finished():
            self._end(trial, verdict)
        elif trial.state != verdict[0] or (trial.state == TrialState.COMPLETE and trial.value != verdict[1]):
            self._copy(number, trial, verdict)

    def _end(self, trial: FrozenTrial, verdict: Verdict) -> None:
        state, value = verdict
        with contextlib.suppress(UpdateFinishedTrialError):  # by another process
            self._study.tell(trial.number, value, state=state, skip_if_finished=True)

    def _copy(self, number: int, trial: FrozenTrial, verdict: Verdict) -> FrozenTrial:
        state, value = verdict
        copied = create_trial(
            state=state,
            value=value,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={INSTEAD_OF: number},
            intermediate_values=trial.intermediate_values if state.is_finished() else {},
        )
        return self._add(copied)

    def _add(self, trial: FrozenTrial) -> FrozenTrial:
        return self._storage.get_trial(self._storage.create_new_trial(self._id, trial))


def _verdict(entries: list[Entry]) -> Verdict | None:
    """What becomes of a point; None while some of its trials are still to end."""
    states = {entry.state for entry in entries}
    if "pruned" in states:
        return TrialState.PRUNED, None
    if not states <= ENDED:
        return None
    values = [entry.value for entry in entries if entry.value is not None and math.isfinite(entry.value)]
    if states == {"finished"} and len(values) == len(entries):
        return TrialState.COMPLETE, math.fsum(values) / len(values)
    return TrialState.FAIL, None


def _pruner(pruner: Mapping[str, Any] | None, folder: Path) -> BasePruner:
    if pruner is None:
        return NopPruner()
    first, factor = pruner["first_step"], pruner["factor"]
    if pruner["name"] == "asha":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
    if pruner["name"] == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=_longest(folder) or "auto", reduction_factor=factor)
    return MedianPruner(n_startup_trials=MEDIAN_STARTUP, n_warmup_steps=first)


def _longest(folder: Path) -> int | None:
    """Steps of a whole trial; None where the length is not given in steps."""
    try:
        templates = json.loads((folder / "templates.json").read_text())
    except FileNotFoundError:
        return None
    lengths = [template["config"]["max_steps"] for template in templates]
    return None if None in lengths else max(lengths)


def _run_key(folder: Path) -> str:
    """What tells this sweep from any other of the same name in the same database."""
    provenance = yaml.load((folder / "provenance.yaml").read_text(), Loader=yaml.CSafeLoader)
    return str(provenance["run_key"])


def _open(folder: Path, address: str | None) -> BaseStorage:
    if address is not None:
        uri = str(resolve(address))
        # A host that drops what it is sent is waited for two minutes otherwise.
        options = {"connect_args": {"connect_timeout": CONNECT_S}} if uri.startswith("postgresql") else {}
        return RDBStorage(uri, engine_kwargs=options)
    path = folder / FILE
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path)))  # type: ignore[arg-type]


class _Lock:
    """A lock of the kernel's on the study's file, as the ledger's is.

    The process that held it lets go of it with its life, while Optuna's own are waited for half a minute. Between
    machines it holds where the ledger's does, NFS 3 and 4 among it. What a process left half written is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        self._file = self._path.with_suffix(".lock").open(lock.MODE)
        lock.acquire(self._file)
        with self._path.open("r+b") as log:
            cut_torn_tail(log.fileno())
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def _told(address: str | None) -> Iterator[None]:
    """What goes wrong with a database is the user's to mend, and its address may hold a password."""
    if address is None:
        yield
        return
    import sqlalchemy.exc

    try:
        yield
    except KeyError as err:
        raise InputError(
            [f"sweep.strategy.storage needs the environment variable {err.args[0]}; `export {err.args[0]}=...`"]
        ) from err
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as err:
        way = (
            "`pip install 'psycopg[binary]'` for postgresql://"
            if isinstance(err, ImportError)
            else "see to its address"
        )
        told = f"sweep.strategy.storage needs a package to reach its database ({err.__cause__ or err}); {way}"
        raise InputError([told]) from err
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as err:
        raise InputError(
            [f"sweep.strategy.storage cannot be reached ({_reason(err, address)}); see to its address, or leave it out"]
        ) from err


def _reason(err: Exception, address: str) -> str:
    """What a database says, without the password; of any other fault its class, as its words may hold a part of it."""
    from sqlalchemy.engine import make_url

    said = getattr(err, "orig", None)
    if said is None:
        return type(err).__name__
    told = " ".join(str(said).split())[:MOST_SAID]
    password = make_url(str(resolve(address))).password
    return told.replace(password, "***") if password else told
