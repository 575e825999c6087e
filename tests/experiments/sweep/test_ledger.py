"""The ledger: replay, fencing of replaced attempts, and concurrent processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep import ledger as ledger_module
from experiments.sweep.budget import sum_device_s
from experiments.sweep.ledger import ClaimLostError, Entry, Ledger
from tests.support.waiting import PATIENCE_S


def make_trial_event(name: str, point: int = 0, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "trial": name, "point": point, "values": {"lr": point}, "seed": seed, "reused": None, **more,
    }  # fmt: skip


def make_ledger(folder: Path, *names: str) -> Ledger:
    ledger = Ledger(folder)
    with ledger.locked():
        ledger.add(make_trial_event(name, point) for point, name in enumerate(names))
    return ledger


def claim(ledger: Ledger, name: str, worker: str = "w") -> int:
    with ledger.locked() as ledger_state:
        return ledger.claim(ledger_state.entries[name], worker=worker, host="h", devices=2)


def read_entry(folder: Path, name: str) -> Entry:
    return Ledger(folder).read().entries[name]


def test_events_of_one_process_are_read_by_another(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "a", "b")
    assert claim(ledger, "a") == 1
    other = Ledger(tmp_path).read()
    assert [(entry.id, entry.state, entry.attempt) for entry in other.entries.values()] == [
        ("a", "running", 1),
        ("b", "pending", 0),
    ]


def test_replaced_attempt_writes_nothing(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "a")
    claim(ledger, "a", "orphan")
    orphan = Ledger(tmp_path)
    with ledger.locked():
        ledger.end("a", 1, "pending", failure="node lost")
    assert claim(ledger, "a", "other") == 2
    with orphan.locked():
        assert not orphan.end("a", 1, "finished", value=0.9)
    with ledger.locked():
        assert ledger.end("a", 2, "finished", value=0.5)
    result = read_entry(tmp_path, "a")
    assert (result.state, result.value, result.attempt, result.worker) == ("finished", 0.5, 2, "other")


def test_replay_ignores_events_of_other_attempts(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "a")
    claim(ledger, "a")
    ended = {"event": "ended", "trial": "a", "attempt": 7, "state": "finished", "value": 1.0, "step": 1}
    with ledger.locked():
        ledger._write([{**ended, "failure": None, "reason": None, "wasted": False, "until": 0.0}])
    assert read_entry(tmp_path, "a").state == "running"


def test_partial_last_line_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "a", "b")
    with ledger.path.open("a") as file:
        file.write('{"event":"claimed","trial":"a","att')
    assert read_entry(tmp_path, "a").state == "pending"
    claim(ledger, "b")
    assert read_entry(tmp_path, "b").state == "running"
    assert read_entry(tmp_path, "a").state == "pending"


def test_used_and_wasted_device_time_are_counted(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "a")
    for attempt, (state, wasted) in enumerate([("pending", True), ("finished", False)], start=1):
        claim(ledger, "a")
        with ledger.locked():
            ledger.end("a", attempt, state, value=1.0, wasted=wasted)  # type: ignore[arg-type]
    result = read_entry(tmp_path, "a")
    assert result.used_s > result.wasted_s > 0


def test_devices_are_used_until_the_attempt_ended(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "a")
    claim(ledger, "a")
    with ledger.locked() as ledger_state:
        ledger.end("a", 1, "pending", failure="node lost", until=ledger_state.entries["a"].since + 3.0)
    assert read_entry(tmp_path, "a").used_s == pytest.approx(2 * 3.0)


def test_retry_makes_cancelled_trials_pending_but_not_finished_ones(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "a", "b")
    claim(ledger, "a")
    with ledger.locked():
        ledger.end("a", 1, "finished", value=1.0)
        ledger.cancel(["a", "b"], "by hand")
        assert (read_entry(tmp_path, "a").state, read_entry(tmp_path, "b").state) == ("finished", "cancelled")
        ledger.retry(["a", "b"])
    assert (read_entry(tmp_path, "a").state, read_entry(tmp_path, "b").state) == ("finished", "pending")


def test_point_has_a_value_after_all_its_seeds_have_finished(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.locked() as ledger_state:
        ledger.add([make_trial_event("a", 3, 0), make_trial_event("b", 3, 1)])
        for name, value in (("a", 0.5), ("b", 1.0)):
            assert ledger_state.average_value(3) is None
            ledger.claim(ledger_state.entries[name], worker="w", host="h", devices=1)
            ledger.end(name, 1, "finished", value=value)
        assert ledger_state.average_value(3) == 0.75


def test_a_trial_is_added_once(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "a")
    claim(ledger, "a")
    with ledger.locked():
        ledger.add([make_trial_event("a", 9)])
    assert read_entry(tmp_path, "a").state == "running"


CLAIMER = """
    import fcntl, sys
    from pathlib import Path
    from experiments.sweep.ledger import ClaimLostError, Ledger
    if len(sys.argv) > 3:
        fcntl.flock = lambda *_: None  # as on some network file systems
    ledger = Ledger(Path(sys.argv[1]))
    while True:
        with ledger.locked() as ledger_state:
            pending = [entry for entry in ledger_state.entries.values() if entry.state == "pending"]
            if not pending:
                break
            try:
                attempt = ledger.claim(pending[0], worker=sys.argv[2], host="h", devices=1)
            except ClaimLostError:
                continue
            print(pending[0].id, attempt, flush=True)
"""


@pytest.mark.parametrize("has_locks", [True, False])
def test_many_processes_claim_each_trial_once(tmp_path: Path, has_locks: bool) -> None:
    names = [f"t{number}" for number in range(40)]
    make_ledger(tmp_path, *names)
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLAIMER), str(tmp_path), f"w{number}", *([] if has_locks else ["without"])],
            stdout=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    claimed = [line for claimer in claimers for line in claimer.communicate(timeout=PATIENCE_S)[0].splitlines()]
    assert sorted(claimed) == sorted(f"{name} 1" for name in names)


def test_killed_process_releases_the_lock(tmp_path: Path) -> None:
    make_ledger(tmp_path, "a")
    holder = "import sys, time; from pathlib import Path; from experiments.sweep.ledger import Ledger\n"
    holder += "with Ledger(Path(sys.argv[1])).locked():\n    print('held', flush=True)\n    time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert claim(Ledger(tmp_path), "a") == 1


def test_writing_without_the_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="lock the ledger before"):
        Ledger(tmp_path).close("no lock")


def test_others_go_on_while_a_worker_is_stopped_with_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "PATIENCE_S", 0.05)
    stopped, other = make_ledger(tmp_path, "a", "b"), Ledger(tmp_path)
    with stopped.locked() as ledger_state:  # stopped here
        assert claim(other, "a", "other") == 1
        with other.locked():
            other.end("a", 1, "finished", value=1.0)
        with pytest.raises(ClaimLostError):  # it comes back, and takes what it has read for true
            stopped.claim(ledger_state.entries["a"], worker="stopped", host="h", devices=1)
        assert stopped.claim(ledger_state.entries["b"], worker="stopped", host="h", devices=1) == 1
    states = {entry.id: (entry.state, entry.worker) for entry in Ledger(tmp_path).read().entries.values()}
    assert states == {"a": ("finished", "other"), "b": ("running", "stopped")}


def test_a_line_that_another_writer_cuts_off_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, fsync = make_ledger(tmp_path, "a"), os.fsync
    size = ledger.path.stat().st_size

    def cut_once(descriptor: int) -> None:  # as a process does that takes the line for a torn one
        os.ftruncate(descriptor, size + 9)
        monkeypatch.setattr(os, "fsync", fsync)

    monkeypatch.setattr(os, "fsync", cut_once)
    assert claim(ledger, "a") == 1
    assert read_entry(tmp_path, "a").state == "running"


@pytest.mark.parametrize("ahead_s", [-600.0, 600.0])
def test_clocks_that_differ_between_hosts_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    ledger, now = make_ledger(tmp_path, "a"), time.time()
    monkeypatch.setattr(time, "time", lambda: now + ahead_s)
    claim(ledger, "a")
    monkeypatch.setattr(time, "time", lambda: now)
    entry = read_entry(tmp_path, "a")
    assert entry.waited_s >= 0
    assert sum_device_s(ledger.read(), now) >= 0
    with ledger.locked():
        assert ledger.end("a", 1, "finished", value=1.0)
    assert read_entry(tmp_path, "a").used_s >= 0


EVENTS = [
    make_trial_event("a"),
    {"trial": "a", "attempt": 1, "worker": "w", "host": "h", "devices": 2},
    {
        "trial": "a", "attempt": 1, "state": "finished", "value": 0.5, "step": 9, "failure": None, "reason": None,
        "wasted": False, "until": 3.0,
    },
]  # fmt: skip
KINDS = ["trial", "claimed", "ended"]
WRONG: list[Any] = [None, True, -1, 1.5, 2**80, float("nan"), float("inf"), "", "../up", [], {}, {"a": 1}, "x" * 300]


def write_lines(folder: Path, *lines: bytes) -> None:
    (folder / "ledger.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def encoded(number: int, **changes: Any) -> bytes:
    return json.dumps({"event": KINDS[number], "time": 1.0 + number, **EVENTS[number], **changes}).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"null", b"[]", b"7", b'"event"', b"\xff\x00\x01", b"[" * 100_000, b'{"event":' * 100_000, b"{}",
        b'{"event": "trial"}', b'{"event": ["trial"]}', b'{"event": {}}', b'{"event": "claimed", "time": "now"}',
        b'{"event": "trial", "time": ' + b"9" * 5000 + b"}", b"9" * 5000,
    ],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_a_damaged_line_is_skipped_and_named(line: bytes, tmp_path: Path) -> None:
    write_lines(tmp_path, encoded(0), encoded(1), line, encoded(2))
    ledger = Ledger(tmp_path)
    assert ledger.read().entries["a"].state == "finished"
    assert ledger.damaged_lines == [3]
    assert "ledger.jsonl: 1 damaged line was skipped (line 3)" in str(ledger.describe_damage())
    claim_another = make_trial_event("b")
    with ledger.locked():
        ledger.add([claim_another])
    assert [*Ledger(tmp_path).read().entries] == ["a", "b"]


@pytest.mark.parametrize(("number", "name"), [(i, name) for i, event in enumerate(EVENTS) for name in ("time", *event)])
def test_a_value_of_the_wrong_type_damages_only_its_line(number: int, name: str, tmp_path: Path) -> None:
    for value in WRONG:
        lines = [encoded(i, **({name: value} if i == number else {})) for i in range(3)]
        write_lines(tmp_path, *lines, encoded(0, trial="z"))
        ledger = Ledger(tmp_path)
        entries = ledger.read().entries
        assert "z" in entries
        assert ledger.damaged_lines in ([], [number + 1])
        assert all(
            isinstance(entry.used_s + entry.since + entry.step + entry.point, float) for entry in entries.values()
        )
        assert not any("/" in entry.id for entry in entries.values())


def test_kinds_of_a_later_version_are_no_damage(tmp_path: Path) -> None:
    write_lines(tmp_path, encoded(0), b'{"event": "moved", "to": 3}')
    ledger = Ledger(tmp_path)
    assert [*ledger.read().entries] == ["a"]
    assert ledger.describe_damage() is None
