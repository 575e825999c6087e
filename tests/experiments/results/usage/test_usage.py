"""`lathe usage`: how long attempts count, on how many devices, and by what they are added up."""

from __future__ import annotations

import getpass
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.completion import complete
from experiments.cli.main import main
from tests.support.stores import make_run

START = datetime(2026, 11, 22, 23).timestamp()
"""An hour before the midnight between two weeks."""
HOUR_S = 3600.0


def log_attempt(folder: Path, number: int, start_h: float, *, end_h: float, state: str = "finished") -> Path:
    """The journal of an attempt on another machine; times are hours after `START`."""
    attempt = folder / "attempts" / str(number)
    attempt.mkdir(parents=True)
    common = {"event": "state", "attempt": number, "host": "node7", "pid": 1, "reason": None}
    events: list[dict[str, Any]] = [
        {**common, "time": START + start_h * HOUR_S, "state": "running", "step": 0},
        {**common, "time": START + end_h * HOUR_S, "state": state, "step": 9},
    ]
    (attempt / "journal.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return attempt


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run on 4 devices; a killed one, on one, that was resumed; and a longer run, which copied the attempts."""
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path))
    first = make_run(tmp_path, hardware={"nodes": 2, "devices_per_node": 2}, tags={"team": "vision"}).folder
    log_attempt(first, 1, 0, end_h=2)
    other = make_run(tmp_path, "d4e5f6", hardware={"nodes": 1, "devices_per_node": 1}).folder
    killed = log_attempt(other, 1, 10, end_h=11, state="running")
    (killed / "heartbeat").touch()
    os.utime(killed / "heartbeat", (0, START + 11.5 * HOUR_S))
    log_attempt(other, 2, 30, end_h=31)
    child = make_run(tmp_path, "0a0a0a", hardware={"nodes": 1, "devices_per_node": 1})
    link = {"created": START + 40 * HOUR_S, "continues": {"run": "d4e5f6", "run_key": "key-of-d4e5f6"}}
    (child.folder / "provenance.yaml").write_text(yaml.safe_dump({**child.provenance, **link}))
    log_attempt(child.folder, 1, 10, end_h=11)
    log_attempt(child.folder, 2, 30, end_h=31)
    log_attempt(child.folder, 3, 41, end_h=42)
    return tmp_path


def measure(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    assert main(["usage", *command, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_device_hours_are_added_up_by_any_key(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    all_of_it = {"num_runs": 3, "num_attempts": 4, "device_h": pytest.approx(8 + 1.5 + 1 + 1)}
    groups = [{"user": getpass.getuser(), **all_of_it}]
    assert measure(capsys) == {"by": ["user"], "groups": groups, "total": all_of_it}
    by_week = {group["week"]: group["device_h"] for group in measure(capsys, "--by", "week")["groups"]}
    assert by_week == pytest.approx({"2026-W47": 4.0, "2026-W48": 7.5})
    groups = measure(capsys, "--by", "team,day")["groups"]
    assert [(group["team"], group["day"], group["num_runs"], group["device_h"]) for group in groups] == [
        ("vision", "2026-11-22", 1, pytest.approx(4.0)), ("vision", "2026-11-23", 1, pytest.approx(4.0)),
        (None, "2026-11-23", 1, pytest.approx(1.5)), (None, "2026-11-24", 2, pytest.approx(2.0)),
    ]  # fmt: skip
    part = measure(capsys, "tags.team=vision", "--since", "2026-11-22T23:30", "--until", "2026-11-23T00:30")
    assert part["total"]["device_h"] == pytest.approx(4.0)
    assert main(["usage", "--by", "project"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[2] == ["lathe", "3", "4", "11.5"]
    assert rows[-1] == ["all", "3", "4", "11.5"]


def test_wrong_keys_and_dates_are_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--by", "user,mnth,staet"]) == 2
    problems = capsys.readouterr().err
    assert "--by mnth: no run has the key mnth; did you mean 'month'?" in problems
    assert "--by staet: no run has the key staet; did you mean 'state'?" in problems
    assert main(["usage", "--since", "yesterday"]) == 2
    assert "--since yesterday is not a date; write one such as 2026-11-24" in capsys.readouterr().err
    assert complete(["lathe", "usage", "--by", "user,mo"])[0] == "user,month"
