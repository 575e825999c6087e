"""`lathe status`: tables that fit the terminal, a live table, and lines without a terminal."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.core.format import format_duration, format_point, to_json
from experiments.sweep.status import progress, tables
from experiments.sweep.status.progress import read_progress
from experiments.sweep.status.tables import limit_rows, make_summary, make_trials_table, show_live
from experiments.sweep.status.text import find_short_ids, find_short_keys
from experiments.sweep.submit import MAX_RESTARTS, WorkerRestarts
from experiments.sweep.sweep import Sweep
from launchers.local import Local
from tests.conftest import Lathe
from tests.support.ledgers import (
    age_file,
    claim_trial,
    end_trial,
    finish_trial,
    ids,
    log_metric,
    make_idle_sweep,
    read_entry,
    shift_events,
)
from tests.support.waiting import PATIENCE_S

POINTS = [{"optimizer.lr": rate, "batch_size_global": size} for rate in (0.1, 0.01) for size in (16, 256)]
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ATTACHED = "from pathlib import Path; from experiments.sweep.sweep import Sweep; "
ATTACHED += "from experiments.sweep.status.tables import show_live; "
ATTACHED += "sweep = Sweep(Path({!r})); raise SystemExit(show_live(sweep, sweep.executor(), str))"


def make_mixed_sweep(runs_dir: Path, name: str = "s") -> Sweep:
    """A sweep with a trial in every state."""
    sweep = make_idle_sweep(runs_dir, name, POINTS, seeds=2)
    for number, value in enumerate((0.5, 0.6)):
        finish_trial(sweep, ids(8)[number], value)
    claim_trial(sweep, ids(8)[2], "12_0.0")
    log_metric(sweep, ids(8)[2], {50: 0.3, 100: 0.2})
    claim_trial(sweep, ids(8)[3])
    end_trial(sweep, ids(8)[3], "failed", failure="exception", reason="KeyError: 'x'\nin line 3", step=7, wasted=True)
    claim_trial(sweep, ids(8)[4])
    end_trial(sweep, ids(8)[4], "pending", value=0.1, step=40, failure="preempted", reason="SIGTERM")
    return sweep


def render(sweep: Sweep, width: int) -> list[str]:
    """The lines of the summary and the table at a terminal width."""
    seen = read_progress(sweep, sweep.ledger())
    screen = Console(width=width, record=True, file=io.StringIO())
    screen.print(make_summary(seen, has_bar=True), make_trials_table(seen, seen.rows, width))
    return [line.rstrip() for line in screen.export_text().splitlines()]


def test_trials_that_differ_only_in_their_seed_have_no_point_column(tmp_path: Path) -> None:
    lines = render(make_idle_sweep(tmp_path, "s", [{}], seeds=2), 100)
    assert [line.split()[:3] for line in lines if line.startswith("b0000")] == [
        ["b00000000000", "0", "pending"], ["b00000000001", "1", "pending"],
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 120, 140, 160, 250])
def test_table_fits_the_width_and_shows_every_value_of_a_point(tmp_path: Path, width: int) -> None:
    lines = render(make_mixed_sweep(tmp_path), width)
    assert max(map(len, lines)) <= width
    points = [re.match(r"b0000\S+ +lr=([\d.]+) bat\S*=(\d+) ", line) for line in lines]
    seen = [(match.group(1), match.group(2)) for match in points if match]
    assert sorted(seen) == sorted((str(point["optimizer.lr"]), str(point["batch_size_global"])) for point in POINTS * 2)


def test_narrow_table_shows_progress_and_reasons_below(tmp_path: Path) -> None:
    lines = render(make_mixed_sweep(tmp_path), 80)
    running = next(line for line in lines if " running " in line)
    assert re.search(r"50%\s+0\.3 ", running)
    assert lines[-2] == f"{ids(8)[3]}  exception: KeyError: 'x' in line 3"
    assert lines[-1] == f"{ids(8)[4]}  preempted: SIGTERM"


def test_wide_table_shows_all_columns_of_a_trial(tmp_path: Path) -> None:
    lines = render(make_mixed_sweep(tmp_path), 200)
    running = next(line for line in lines if " running " in line)
    assert re.search(r"100/200\s+0\.3\s+0\.2\s+1\s+[\d.]+ s\s+12_0\.0 on node7$", running)
    assert re.search(r" failed .*exception: KeyError: 'x' in line 3$", "\n".join(lines), re.MULTILINE)
    assert "sweep s: running, 2/8 done, 1 running, 4 pending, 1 failed" in lines[0]
    assert any(
        line.startswith(
            "best     delivered/val/accuracy_top1 0.55 at optimizer.lr=0.1 batch_size_global=16, the mean of 2"
        )
        for line in lines
    )


def test_long_table_shows_failed_and_running_rows_first(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", [{"optimizer.lr": rate} for rate in range(300)])
    ledger = sweep.ledger()
    with ledger.locked() as ledger_state:
        for number, trial in enumerate(list(ledger_state.entries.values())[:200]):
            ledger.claim(trial, worker="w", host="h", devices=1)
            if number < 150:
                state: Any = "failed" if number < 100 else "finished"
                ledger.end(trial.id, 1, state, value=number / 200)
    rows = limit_rows(read_progress(sweep, ledger).rows, 40)
    counted = {state: sum(row.state == state for row in rows) for state in ("failed", "running", "finished", "pending")}
    assert counted == {"failed": 13 + 7, "running": 20, "finished": 0, "pending": 0}
    few = limit_rows([row for row in read_progress(sweep, ledger).rows if row.state != "failed"], 40)
    assert [sum(row.state == state for row in few) for state in ("running", "finished")] == [20 + 20, 0]


def test_short_keys_and_ids_are_unique(tmp_path: Path) -> None:
    sweep = make_idle_sweep(
        tmp_path, "s", [{"optimizer.lr": 1, "model.head.dim": 2, "model.body.dim": 3, "optimizer": "sgd"}]
    )
    short = find_short_keys(read_progress(sweep, sweep.ledger()).rows)
    assert short == {
        "optimizer.lr": "lr", "model.head.dim": "head.dim", "model.body.dim": "body.dim", "optimizer": "optimizer",
    }  # fmt: skip
    assert format_point({"optimizer.lr": 1e-05, "model.sizes": [64, 32], "compile": True}) == (
        "optimizer.lr=1e-05 model.sizes=[64, 32] compile=true"
    )
    ledger = sweep.ledger()
    names = ["abcdef0123", "abcdef0199", "abcdef0123-2", "ffff000000"]
    with ledger.locked():
        ledger.add({"trial": name, "point": 1, "values": {}, "seed": 0, "reused": None} for name in names)
    short_names = find_short_ids(read_progress(sweep, ledger).rows)
    assert [short_names[name] for name in names] == ["abcdef0123", "abcdef019", "abcdef0123-", "ffff00"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (45, "45 s"), (150, "2 min"), (12000, "3.3 h"), (200000, "2.3 d"), (None, "")],
)
def test_duration_has_a_readable_unit(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_sweeps_are_listed_from_newest_to_oldest(tmp_path: Path, lathe: Lathe) -> None:
    (tmp_path / "runs").mkdir()
    empty = lathe("status")
    assert (empty.returncode, empty.stdout) == (0, "there is no sweep in runs; `lathe sweep NAME` starts one\n")
    shift_events(make_mixed_sweep(tmp_path / "runs", "older"), 7000)
    make_idle_sweep(tmp_path / "runs", "newer", POINTS)
    done = lathe("status")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[2] == ["newer", "pending", "0/4", *lines[2][3:5], "ago"]
    assert lines[3][:6] == ["older", "running", "2/8", "1.9", "h", "ago"]
    assert lines[3][6:] == ["delivered/val/accuracy_top1", "0.55", "optimizer.lr=0.1", "batch_size_global=16"]
    document = json.loads(lathe("status", "--json").stdout)
    assert [sweep["name"] for sweep in document] == ["newer", "older"]


def test_status_of_a_sweep_suggests_the_next_commands(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_mixed_sweep(tmp_path / "runs")
    done = lathe("status", "s")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\nb0000") == 8
    assert done.stdout.endswith(
        "`lathe logs s` shows the output of failed trials, `lathe resume s` runs them again\n"
        "`lathe ui --sweep s` compares the trials in MLflow; run `lathe sync s` first\n"
    )
    assert lathe("status", "s", "--failed").stdout.count("\nb0000") == 1
    elsewhere = lathe("status", str(sweep.folder), env={"LATHE_RUNS": "other"})
    assert f"`lathe logs {sweep.folder}`" in elsewhere.stdout


def test_more_than_forty_rows_are_shown_with_all(tmp_path: Path, lathe: Lathe) -> None:
    make_idle_sweep(tmp_path / "runs", "s", [{"optimizer.lr": rate} for rate in range(50)])
    done = lathe("status", "s")
    assert done.stdout.count("\nb0000") == 40
    assert done.stdout.endswith("10 more trials; `lathe status s --all` shows them\n")
    assert lathe("status", "s", "--all").stdout.count("\nb0000") == 50


def test_unknown_sweep_is_an_error_with_a_suggestion(tmp_path: Path, lathe: Lathe) -> None:
    make_idle_sweep(tmp_path / "runs", "rates", POINTS)
    for command in ("status", "logs", "cancel"):
        done = lathe(command, "rtes")
        assert (done.returncode, done.stdout) == (2, "")
        assert "there is no run and no sweep 'rtes' in runs; did you mean 'rates'?" in done.stderr


def test_json_has_every_field(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_mixed_sweep(tmp_path / "runs")
    document = json.loads(lathe("status", "s", "--json").stdout)
    assert (document["state"], document["done"], document["total"], document["failed"]) == (
        "running",
        2,
        8,
        {"exception": 1},
    )
    assert document["best"] == {
        "point": 0, "values": POINTS[0], "value": 0.55, "trials": ids(2), "half_width": pytest.approx(0.635, abs=1e-3),
    }  # fmt: skip
    rows = {row["id"]: row for row in document["rows"]}
    assert rows[ids(8)[2]]["last"] == 0.2
    assert (rows[ids(8)[3]]["failure"], rows[ids(8)[3]]["reason"]) == ("exception", "KeyError: 'x'\nin line 3")
    finish_trial(sweep, ids(8)[5], math.inf)
    assert json.loads(to_json(read_progress(sweep, sweep.ledger())))["rows"][0]["value"] is None


def test_lost_workers_are_reported(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS)
    age_file(claim_trial(sweep, ids(4)[0], "w9") / "heartbeat", 40)
    done = lathe("status", "s", "--json")
    assert done.stderr.startswith(f"trial {ids(4)[0]}, attempt 1: worker w9 on node7 has sent no heartbeat for 4")
    assert json.loads(done.stdout)["counts"]["running"] == 0
    assert read_entry(sweep, ids(4)[0]).failure == "node lost"


def test_sweep_without_workers_suggests_resume(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS)
    shift_events(sweep, progress.STARTING_S + 5)
    done = lathe("status", "s")
    assert done.stdout.startswith("sweep s: stalled, 0/4 done, 4 pending\n")
    assert done.stdout.endswith("4 trials are pending and no worker is left; `lathe resume s` starts workers\n")
    watched = lathe("status", "s", "--watch")
    assert watched.returncode == 0
    assert watched.stdout.endswith("4 trials are pending and no worker is left; `lathe resume s` starts workers\n")


# While the sweep runs


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def attach(sweep: Sweep) -> subprocess.Popen[str]:
    """Start a process that shows a sweep as `lathe sweep` does, into a pipe."""
    command = [sys.executable, "-P", "-u", "-c", ATTACHED.format(str(sweep.folder))]
    environment = {**os.environ, "LATHE_RUNS": str(sweep.runs_dir)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_one_line_is_printed_per_ended_trial_without_a_terminal(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS[:3])
    claim_trial(sweep, ids(3)[0])
    processes.append(attach(sweep))
    lines = processes[0].stdout
    assert lines is not None
    assert lines.readline() == "0/3 done, 1 running, 2 pending\n"
    finish_trial(sweep, ids(3)[0], 0.5)
    assert lines.readline().startswith("1/3 done, ")
    claim_trial(sweep, ids(3)[1])
    end_trial(sweep, ids(3)[1], "pending", failure="preempted", reason="SIGTERM", step=20)
    assert lines.readline() == (
        f"trial {ids(3)[1]} (optimizer.lr=0.1 batch_size_global=256) was interrupted and is pending again: preempted: SIGTERM\n"
    )
    claim_trial(sweep, ids(3)[1])
    end_trial(sweep, ids(3)[1], "failed", failure="exception", reason="KeyError: 'x'", wasted=True)
    assert lines.readline().endswith(" failed: exception: KeyError: 'x'\n")
    assert lines.readline().startswith(
        "1/3 done, 1 pending, 1 failed, best delivered/val/accuracy_top1 0.5 at optimizer.lr=0.1"
    )
    finish_trial(sweep, ids(3)[2], 0.25)
    rest = lines.read().splitlines()
    assert rest[0].startswith("2/3 done, 1 failed, best delivered/val/accuracy_top1 0.5 ")
    assert rest[1].startswith("sweep s: some failed after ")
    assert rest[2] == "`lathe logs s` shows the output of failed trials, `lathe resume s` runs them again"
    assert processes[0].wait(timeout=PATIENCE_S) == 1


def test_show_live_returns_0_if_the_sweep_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS[:1])
    finish_trial(sweep, ids(1)[0], 0.5)
    assert show_live(sweep, Local(), str) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("1/1 done, best delivered/val/accuracy_top1 0.5 at ")


def test_show_live_returns_1_if_no_worker_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS[:1])
    shift_events(sweep, progress.STARTING_S + 5)
    assert show_live(sweep, Local(), str) == 1
    assert capsys.readouterr().out.endswith(
        f"1 trial is pending and no worker is left; `lathe resume {sweep.folder}` starts workers\n"
    )


def test_ctrl_c_leaves_the_sweep_running_and_suggests_commands(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS)
    claim_trial(sweep, ids(4)[0])
    processes.append(attach(sweep))
    assert processes[0].stdout is not None
    processes[0].stdout.readline()
    processes[0].send_signal(signal.SIGINT)
    rest = processes[0].stdout.read()  # may repeat the previous line if the signal came while it was printed
    assert rest.endswith("the sweep continues; `lathe status s` shows it, `lathe cancel s` ends it\n")
    assert processes[0].wait(timeout=PATIENCE_S) == 0
    assert sweep.ledger().read().closed is None


class Screen:
    """A command on a terminal of a given size."""

    def __init__(self, command: list[str], folder: Path, columns: int, lines: int) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "LATHE_RUNS": "runs"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=folder, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def until(self, is_there: Callable[[str], object]) -> str:
        """Wait until the condition holds for the output; returns the output so far."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_there(self.text):
            assert time.monotonic() < deadline, self.text
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += CODES.sub("", os.read(self.master, 65536).decode(errors="replace"))
                except OSError:  # the process has ended
                    assert is_there(self.text), self.text
        text, self.text = self.text, ""
        return text

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_table_is_updated_on_a_terminal_until_ctrl_c(tmp_path: Path) -> None:
    sweep = make_mixed_sweep(tmp_path / "runs")
    screen = Screen([sys.executable, "-P", "-m", "experiments.cli", "status", "s", "--watch"], tmp_path, 80, 24)
    try:
        first = screen.until(lambda text: "b0000" in text and "running" in text)
        assert max(map(len, first.splitlines())) <= 80
        log_metric(sweep, ids(8)[2], {150: 0.9})
        screen.until(lambda text: re.search(r"75%\s+0\.9", text))
        os.write(screen.master, b"\x03")
        assert screen.process.wait(timeout=PATIENCE_S) == 0
    finally:
        screen.close()
    assert read_entry(sweep, ids(8)[2]).state == "running"


def test_long_table_fits_a_low_terminal_and_is_complete_at_the_end(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", [{"optimizer.lr": rate} for rate in range(30)])
    for trial in ids(30)[:29]:
        finish_trial(sweep, trial, 0.5)
    claim_trial(sweep, ids(30)[29])
    screen = Screen([sys.executable, "-P", "-c", ATTACHED.format("runs/s")], tmp_path, 100, 20)
    try:
        frame = screen.until(lambda text: text.count("29/30 done") == 2).split("29/30 done")[1]
        assert len(frame.splitlines()) <= 20 + 1  # from a line of one frame to the same line of the next
        finish_trial(sweep, ids(30)[29], 0.7)
        last = screen.until(lambda text: text.rpartition("30/30 done")[2].count("b0000") == 30)
        assert "best     delivered/val/accuracy_top1 0.7 at optimizer.lr=29" in last
        assert screen.process.wait(timeout=PATIENCE_S) == 0
    finally:
        screen.close()


def test_sweep_removed_while_watching_is_an_error(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS)
    command = [sys.executable, "-P", "-u", "-m", "experiments.cli", "status", str(sweep.folder), "--watch"]
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    assert processes[0].stdout is not None
    processes[0].stdout.readline()
    shutil.rmtree(sweep.folder)
    assert "was removed; there is nothing to show" in processes[0].communicate(timeout=PATIENCE_S)[1]
    assert processes[0].returncode == 2


def test_attached_command_starts_workers_again_a_few_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS[:2])
    shift_events(sweep, progress.STARTING_S + 5)
    starts: list[int] = []

    def start() -> None:
        starts.append(len(starts))
        if len(starts) == 3:  # then a trial ends, and workers die again
            finish_trial(sweep, ids(2)[0], 0.5)
            shift_events(sweep, progress.STARTING_S + 5)

    monkeypatch.setattr(tables, "POLL_S", 0.01)
    assert show_live(sweep, Local(), str, restart=WorkerRestarts(start)) == 1
    assert len(starts) == 3 + MAX_RESTARTS
    printed = capsys.readouterr().out
    assert [line[-7:] for line in printed.splitlines() if "started again" in line] == [
        "1 of 3)", "2 of 3)", "3 of 3)", "1 of 3)", "2 of 3)", "3 of 3)",
    ]  # fmt: skip
    assert "1 trial is pending and no worker is left" in printed
