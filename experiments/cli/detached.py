"""`lathe run --detach` and `lathe resume RUN --detach`: a run that does not end with its command and its terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from experiments.core.console import Display
from experiments.core.format import to_json
from experiments.launch.background import start_in_background, wait_for_training
from experiments.results.manage.facts import read_facts
from experiments.run.rank_reports import BACKGROUND_LOG as LOG
from experiments.trial.trial import Trial


def detach(trial: Trial, args: argparse.Namespace, overrides: Sequence[str] = ()) -> int:
    """Train a run in the background, and return once it trains.

    Args:
        trial: the run; its folder may be removed if it cannot train.
        args: of the command.
        overrides: of a resume.

    Returns:
        0; else the exit code of the run, if it ended before it trained.

    Raises:
        LaunchError: this machine cannot start another process.
    """
    display = Display(sys.stderr if args.json else sys.stdout)
    words = ["resume", str(trial.folder), *overrides, *(f"--trust={name}" for name in args.trust)]
    words += ["--trust-code"] if getattr(args, "trust_code", False) else []
    before, path, name = [attempt.name for attempt in trial.attempts()], trial.folder / LOG, trial.reference
    with path.open("w+", encoding="utf-8") as log:
        process = start_in_background("experiments.cli", words, log)
        try:
            attempt = wait_for_training(trial, process, before)
        except KeyboardInterrupt:
            display.say(f"run {trial.folder.name} still starts in the background; `lathe cancel {name}` ends it")
            return 0
        if attempt is None:
            path.unlink(missing_ok=True)
            log.seek(0)
            print(log.read(), end="", file=sys.stderr)
            if args.json:
                print(to_json({"error": "RunFailed", "problems": ["it ended before it trained; see standard error"]}))
            return process.returncode or 1
        with contextlib.suppress(OSError):
            path.rename(attempt / LOG)  # the process still writes there
    display.say(f"run {trial.folder.name} trains in the background, as process {process.pid}")
    display.say(
        f"`lathe status {name}` shows it, `lathe logs {name} -f` its output, `lathe cancel {name}` lets it save and stop"
    )
    if args.json:
        print(to_json(read_facts(trial)))
    return 0
