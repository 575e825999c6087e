"""The ledger's replay, its fence, and many processes at it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep.ledger import Entry, Ledger


def trial(name: str, point: int = 0, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "trial": name, "point": point, "values": {"lr": point}, "seed": seed, "reused": None, **more,
    }  # fmt: skip


def ledger_of(folder: Path, *names: str) -> Ledger:
    ledger = Ledger(folder)
    with ledger.locked():
        ledger.add(trial(name, point) for point, name in enumerate(names))
    return ledger


def claim(ledger: Ledger, name: str, worker: str = "w") -> int:
    with ledger.locked() as ledger_state:
        return ledger.claim(ledger_state.entries[name], worker=worker, host="h", devices=2)


def entry(folder: Path, name: str) -> Entry:
    return Ledger(folder).read().entries[name]


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "a", "b")
    assert claim(ledger, "a") == 1
    other = Ledger(tmp_path).read()
    assert [(found.id, found.state, found.attempt) for found in other.entries.values()] == [
        ("a", "running", 1),
        ("b", "pending", 0),
    ]


def test_an_attempt_whose_place_was_taken_says_nothing_any_more(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "a")
    claim(ledger, "a", "orphan")
    orphan = Ledger(tmp_path)
    with ledger.locked():
        ledger.end("a", 1, "pending", failure="node lost")
    assert claim(ledger, "a", "other") == 2
    with orphan.locked():
        assert not orphan.end("a", 1, "finished", value=0.9)
    with ledger.locked():
        assert ledger.end("a", 2, "finished", value=0.5)
    found = entry(tmp_path, "a")
    assert (found.state, found.value, found.attempt, found.worker) == ("finished", 0.5, 2, "other")


def test_the_fence_is_in_the_replay_too(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "a")
    claim(ledger, "a")
    told = {"event": "ended", "trial": "a", "attempt": 7, "state": "finished", "value": 1.0, "step": 1}
    with ledger.locked():
        ledger._write([{**told, "failure": None, "reason": None, "wasted": False, "until": 0.0}])
    assert entry(tmp_path, "a").state == "running"


def test_a_line_that_a_killed_writer_left_half_is_cut_off(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "a", "b")
    with ledger.path.open("a") as file:
        file.write('{"event":"claimed","trial":"a","att')
    assert entry(tmp_path, "a").state == "pending"
    claim(ledger, "b")
    assert entry(tmp_path, "b").state == "running"
    assert entry(tmp_path, "a").state == "pending"


def test_device_time_is_counted_and_what_was_wasted_of_it(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "a")
    for attempt, (state, wasted) in enumerate([("pending", True), ("finished", False)], start=1):
        claim(ledger, "a")
        with ledger.locked():
            ledger.end("a", attempt, state, value=1.0, wasted=wasted)  # type: ignore[arg-type]
    lines = Ledger(tmp_path)
    found = lines.read().entries["a"]
    assert found.used_s > found.wasted_s > 0


def test_devices_count_as_used_until_they_were_free(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "a")
    claim(ledger, "a")
    with ledger.locked() as ledger_state:
        ledger.end("a", 1, "pending", failure="node lost", until=ledger_state.entries["a"].since + 3.0)
    assert entry(tmp_path, "a").used_s == pytest.approx(2 * 3.0)


def test_cancelled_trials_wait_again_and_finished_ones_do_not(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "a", "b")
    claim(ledger, "a")
    with ledger.locked():
        ledger.end("a", 1, "finished", value=1.0)
        ledger.cancel(["a", "b"], "by hand")
        assert (entry(tmp_path, "a").state, entry(tmp_path, "b").state) == ("finished", "cancelled")
        ledger.retry(["a", "b"])
    assert (entry(tmp_path, "a").state, entry(tmp_path, "b").state) == ("finished", "pending")


def test_a_point_has_a_value_when_all_its_seeds_have(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.locked() as ledger_state:
        ledger.add([trial("a", 3, 0), trial("b", 3, 1)])
        for name, value in (("a", 0.5), ("b", 1.0)):
            assert ledger_state.average_value(3) is None
            ledger.claim(ledger_state.entries[name], worker="w", host="h", devices=1)
            ledger.end(name, 1, "finished", value=value)
        assert ledger_state.average_value(3) == 0.75


def test_a_trial_is_added_once(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "a")
    claim(ledger, "a")
    with ledger.locked():
        ledger.add([trial("a", 9)])
    assert entry(tmp_path, "a").state == "running"


CLAIMER = """
    import sys
    from pathlib import Path
    from experiments.sweep.ledger import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    while True:
        with ledger.locked() as ledger_state:
            waiting = [entry for entry in ledger_state.entries.values() if entry.state == "pending"]
            if not waiting:
                break
            attempt = ledger.claim(waiting[0], worker=sys.argv[2], host="h", devices=1)
            print(waiting[0].id, attempt, flush=True)
"""


def test_many_processes_claim_each_trial_once(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(40)]
    ledger_of(tmp_path, *names)
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLAIMER), str(tmp_path), f"w{number}"],
            stdout=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    claimed = [line for claimer in claimers for line in claimer.communicate(timeout=60)[0].splitlines()]
    assert sorted(claimed) == sorted(f"{name} 1" for name in names)


def test_a_process_that_is_killed_lets_go_of_the_lock(tmp_path: Path) -> None:
    ledger_of(tmp_path, "a")
    holder = "import sys, time; from pathlib import Path; from experiments.sweep.ledger import Ledger\n"
    holder += "with Ledger(Path(sys.argv[1])).locked():\n    print('held', flush=True)\n    time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert claim(Ledger(tmp_path), "a") == 1


def test_writing_without_the_lock_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="holds it"):
        Ledger(tmp_path).close("nobody holds it")
