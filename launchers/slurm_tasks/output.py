"""Reads what SLURM's commands print. Sites wrap them: a welcome text, a hint or a quota can stand before and after the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_SHOWN = 200
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
JOB = re.compile(r"(?:submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?", re.IGNORECASE)
"""``1234``, ``1234;cluster`` or ``Submitted batch job 1234 on cluster c``."""
TASK_STATE = re.compile(r"(\d+)\s+(\S+)\s+(\d+)\s+([A-Z_]+)\s+(\d+)")
LAST_STATE = re.compile(r"(\d+[^|\s]*)\|([A-Z_]+)[^|]*\|?")
"""``1234_5|CANCELLED by 1000``."""


def _lines(output: str) -> list[str]:
    return [ESCAPE.sub("", line).strip() for line in output.splitlines()]


def parse_job(output: str) -> str | None:
    """Return the job number in the output of sbatch, from the last line that is one; None if there is none."""
    numbers = [match.group(1) for line in _lines(output) if (match := JOB.fullmatch(line))]
    return numbers[-1] if numbers else None


def parse_jobs(output: str) -> list[str]:
    """Return the job numbers of a column of squeue, each once."""
    return list(dict.fromkeys(line for line in _lines(output) if line.isdecimal() and line.isascii()))


def parse_task_states(output: str) -> Iterator[tuple[str, str, int]]:
    """Yield task, state and number of restarts of squeue's columns ArrayJobID, ArrayTaskID, JobID, State, RestartCnt."""
    for match in filter(None, map(TASK_STATE.fullmatch, _lines(output))):
        array, task, job, state, restarts = match.groups()
        yield (f"{array}_{task}" if task.isdecimal() else job), state, int(restarts)


def parse_last_states(output: str) -> dict[str, str]:
    """Return the state of every task of sacct's columns JobID and State."""
    return {match.group(1): match.group(2) for line in _lines(output) if (match := LAST_STATE.fullmatch(line))}


def shorten(output: str) -> str:
    """Return the output of a command for a message, as one short line."""
    text = " ".join(" ".join(_lines(output)).split())
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...") if text else "nothing"
