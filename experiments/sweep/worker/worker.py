"""One process of a sweep's worker: `python -m experiments.sweep.worker.worker SWEEP_FOLDER [--trust=PACKAGE]...`.

It imports everything once, then runs trials in forked children until none is left or it receives a stop signal.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from experiments.core.files.packages import import_name
from experiments.launch.wakeup import SignalWaiter
from experiments.run.folder_watch import wait_until_back
from experiments.sweep.sweep import Sweep
from launchers.base import DONE, FAILED, PLACEMENT_VARIABLE, REQUEUE, RankPlacement

if TYPE_CHECKING:
    from experiments.launch.rank_group import RankGroup
    from experiments.sweep.worker.claims import Claim

REAP_EVERY_S = 10.0
IDLE_TIMEOUT_S = 60.0
MIN_TRIAL_S = 30.0
"""Time that a trial should have before the scheduler's stop signal."""


def main() -> int:
    """Run trials of the sweep that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trust", action="append", default=[])
    args = parser.parse_args()
    folder: Path = args.folder
    placement = RankPlacement.from_json(os.environ[PLACEMENT_VARIABLE])
    if placement.cpus is not None:  # before torch counts the cores
        os.sched_setaffinity(0, placement.cpus)
    signal_waiter = SignalWaiter()
    if not wait_until_back(folder):
        return _report_gone(folder)
    own = folder / "workers" / placement.worker
    for each in (own.parent, own):  # not the sweep's folder: it is renamed for a moment, or gone
        each.mkdir(exist_ok=True)
    sweep = Sweep(folder, tuple(args.trust))
    if placement.world_size == 1 and not _has_work(sweep):  # nothing to do: skip the slow imports
        return DONE
    _import_all(sweep)
    importlib.import_module("torch").set_num_threads(placement.threads or len(os.sched_getaffinity(0)))
    from experiments.launch.rank_group import RankGroup, RankGroupError, run_follower

    gc.freeze()  # objects that exist now are never collected, so that forked children share their memory
    try:
        if placement.rank > 0:
            run_follower(placement, own, signal_waiter)
            return DONE
        return Worker(sweep, placement, RankGroup(placement, own, signal_waiter), signal_waiter).work()
    except RankGroupError as err:
        print(f"RankGroupError: {err}", file=sys.stderr)
        return FAILED


def _report_gone(folder: Path) -> int:
    print(f"the sweep's folder {folder} is gone, so this worker ends", file=sys.stderr)
    return FAILED


def _has_work(sweep: Sweep) -> bool:
    """Whether a trial is pending, may be taken over, or may be chosen."""
    ledger_state = sweep.ledger().read()
    if ledger_state.closed is not None:
        return False
    return sweep.is_adaptive or any(entry.state in ("pending", "running") for entry in ledger_state.entries.values())


def _import_all(sweep: Sweep) -> None:
    """Import everything slow once, before the first fork: torch, lazy imports of its optimizers, components."""
    for name in ("torch", "torch._dynamo", "experiments.train.attempt"):
        importlib.import_module(import_name(name))
    targets = {
        part["_target_"] for template in sweep.templates().all for part in template.config.values()
        if isinstance(part, dict) and str(part.get("_target_", "")).startswith("modules.")
    }  # fmt: skip
    for target in sorted(targets):
        importlib.import_module(import_name(target.rpartition(".")[0]))


class Worker:
    """The first rank of a worker: claims trials and runs them on all its ranks."""

    def __init__(
        self, sweep: Sweep, placement: RankPlacement, rank_group: RankGroup, signal_waiter: SignalWaiter
    ) -> None:
        self.sweep, self.placement, self.rank_group, self.signal_waiter = sweep, placement, rank_group, signal_waiter
        self.ledger = sweep.ledger()
        self.study = sweep.study()
        self._reaped_at = 0.0

    def work(self) -> int:
        """Run trials until none is left; returns the exit code."""
        from experiments.sweep.worker.claims import TrialQueue

        trials = TrialQueue(
            self.sweep,
            self.ledger,
            self.sweep.templates(),
            self.study,
            worker=self.placement.worker,
            devices=self.placement.world_size,
        )
        seen: dict[tuple[str, int], float] | None = None
        idle_since = 0.0
        try:
            while not self._must_leave() and self.rank_group.is_complete and wait_until_back(self.sweep.folder):
                self._reap()
                try:
                    claim = trials.claim()
                    if claim is not None:
                        seen = None
                        self._run(claim)
                        continue
                except FileNotFoundError:  # the sweep's folder was removed or renamed; a trial may be reaped
                    if self.sweep.folder.is_dir():
                        raise
                    continue
                heartbeats = trials.read_heartbeats()
                if seen is None:
                    seen, idle_since = heartbeats, time.monotonic()
                # If the heartbeat of every other attempt has changed, all other workers are alive and this one is not needed.
                is_needed = any(seen.setdefault(key, beat) == beat for key, beat in heartbeats.items())
                if not is_needed or time.monotonic() - idle_since > IDLE_TIMEOUT_S:
                    break
                self.signal_waiter.wait(1.0)
        finally:
            self.rank_group.close()
        if not self.sweep.folder.is_dir():
            return _report_gone(self.sweep.folder)
        with self.ledger.locked() as ledger_state:
            is_left = (
                any(entry.state == "pending" for entry in ledger_state.entries.values()) and ledger_state.closed is None
            )
        return REQUEUE if is_left and self._must_leave() else DONE

    def _must_leave(self) -> bool:
        """Whether the worker has to stop, or has too little time for another trial."""
        return (
            self.signal_waiter.stop_signal is not None
            or self._time_left_s() < self.placement.signal_delay_s + MIN_TRIAL_S
        )

    def _time_left_s(self) -> float:
        return float("inf") if self.placement.ends_at is None else self.placement.ends_at - time.time()

    def _reap(self) -> None:
        if time.monotonic() - self._reaped_at > REAP_EVERY_S:
            from experiments.sweep.worker.reaper import reap

            reap(self.sweep, self.ledger, None)
            self._reaped_at = time.monotonic()

    def _run(self, claim: Claim) -> None:
        from experiments.sweep.worker.trial_runner import TrialRunner

        TrialRunner(
            self.sweep, self.ledger, self.study, self.rank_group, self.signal_waiter, claim, self._time_is_up
        ).run(self.sweep.trust)

    def _time_is_up(self) -> bool:
        """Whether a stop signal means the time limit; the signal may be a minute early."""
        return self._time_left_s() < self.placement.signal_delay_s + 90


def run_and_exit() -> NoReturn:
    """Run the worker and exit without the exit handlers of imported libraries."""
    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os._exit(code)


if __name__ == "__main__":
    run_and_exit()
