"""Notifications: what is sent, what goes wrong and stays harmless, and what is recorded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from experiments.config.compose import compose
from experiments.core.errors import InputError
from experiments.launch.notify import Notifier
from experiments.results.share.rules import reset
from experiments.run import journal
from experiments.sweep.create import prepare, write
from experiments.sweep.spec import read_overrides
from experiments.sweep.status.notifier import SweepNotifier
from experiments.trial.trial import trial_id
from tests.support.stores import make_run, start_attempt
from tests.support.workers import QUICK, finish_trials

SETTINGS = {"command": None, "webhook": None, "events": ["end", "failure", "stall"], "stall_min": 30.0}
METRICS = {"test/loss_nats": 0.25, "train/loss_nats": 0.5, "delivered/val/loss_nats": float("nan")}


def make_notifier(runs_dir: Path, said: list[str], **settings: Any) -> Notifier:
    trial = make_run(runs_dir)
    start_attempt(trial).close()
    return Notifier(trial, 1, SETTINGS | settings, said.append)


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Keeps what it gets in `received`; the path /broken is refused."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_command_gets_the_message(tmp_path: Path) -> None:
    said: list[str] = []
    command = f'echo "$LATHE_NOTIFY_EVENT $LATHE_NOTIFY_TEXT" > {tmp_path}/text; cat > {tmp_path}/json'
    notifier = make_notifier(tmp_path, said, command=command, events=["failure"])
    notifier.send("end", "finished", None, METRICS)  # not asked for
    assert not (tmp_path / "text").exists()
    notifier.send("failure", "failed", "KeyError:\n 'x; $(touch pwned)'", METRICS)
    assert (tmp_path / "text").read_text() == (
        "failure blobs (a1b2c3): failed, KeyError: 'x; $(touch pwned)'. delivered/val/loss_nats nan, test/loss_nats 0.25\n"
    )
    message = json.loads((tmp_path / "json").read_text())
    assert (message["run"], message["metrics"]) == ("a1b2c3", {"test/loss_nats": 0.25, "delivered/val/loss_nats": None})
    notifier.record()
    assert not said
    (event,) = [event for event in journal.replay(notifier.trial.folder) if event["event"] not in ("state", "metrics")]
    assert {**event, "time": 0} == {
        "event": "notification", "time": 0, "on": "failure", "channel": "command", "error": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"command": "exit 3"}, "notify.command failed (exit code 3)"),
        ({"webhook": "${oc.env:LATHE_TEST_HOOK}/broken"}, "notify.webhook failed (the server answered 500)"),
        ({"webhook": "${oc.env:LATHE_TEST_NONE}"}, "notify.webhook failed (the environment variable LATHE_TEST_NONE is not set)"),
        ({"webhook": "file:///etc/passwd"}, "notify.webhook failed (the address does not begin with https:// or http://)"),
        ({"webhook": "http://127.0.0.1:1/a b"}, "notify.webhook failed (InvalidURL)"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_shown_and_recorded_without_the_address(
    settings: dict[str, str], error: str, server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATHE_TEST_HOOK", f"http://127.0.0.1:{server.server_port}/s3cret")
    said: list[str] = []
    notifier = make_notifier(tmp_path, said, **settings)
    notifier.send("end", "finished", None, METRICS)
    notifier.record()
    assert said == [f"warning: {error}; the run is not affected"]
    text = (notifier.trial.folder / "attempts" / "1" / "journal.jsonl").read_text()
    assert json.loads(text.splitlines()[-1])["error"] == error.partition("(")[2][:-1]
    assert "s3cret" not in text


def test_a_stall_is_sent_once_to_a_webhook(server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_TEST_HOOK", f"http://127.0.0.1:{server.server_port}/")
    notifier = make_notifier(tmp_path, [], webhook="${oc.env:LATHE_TEST_HOOK}")
    now = time.monotonic()
    for progress_at in (now, now - 1801, now - 1801):
        notifier.check_stall(progress_at)
    for thread in threading.enumerate():
        if thread.daemon and thread.name.endswith("(send)"):
            thread.join()
    (message,) = server.received  # type: ignore[attr-defined]
    assert (message["event"], message["text"]) == ("stall", "blobs (a1b2c3): stalled, no progress for 30 min.")


def test_settings_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    own = compose(["model=softmax", "notify.command=./notify.sh"]).config
    assert trial_id(own) == trial_id(compose(["model=softmax"]).config)
    assert reset(own)["notify"]["command"] is None  # a shared file has no command
    with pytest.raises(InputError, match="looks like a secret"):
        compose(["model=softmax", "notify.webhook=https://hooks.example.com/a"])


def test_a_sweep_sends_one_message(tmp_path: Path) -> None:
    command = f'echo "$LATHE_NOTIFY_EVENT $LATHE_NOTIFY_TEXT" >> {tmp_path}/text'
    overrides = [*QUICK, "tracking=off", f"runs_dir={tmp_path}", "optimizer.lr=0.01,0.02", "notify.stall_min=0.000001"]
    sweep = write(prepare(read_overrides([*overrides, f"notify.command='{command}'"], name="probe")))
    notifier = SweepNotifier(sweep)
    assert not notifier.check()
    assert not notifier.check()
    assert not notifier.check()
    assert (
        (tmp_path / "text")
        .read_text()
        .startswith("stall sweep probe: stalled, no progress for 1e-06 min; no worker is left.")
    )
    finish_trials(sweep)
    assert notifier.check()
    assert SweepNotifier(sweep).check()  # of another process
    lines = (tmp_path / "text").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("end sweep probe: done. 2/2 done, best delivered/val/accuracy_top1 0.02 at")
    with (ledger := sweep.ledger()).locked():
        ledger.add([{"trial": "0" * 10, "point": 2, "values": {}, "seed": 0, "reused": None}])
        ledger.cancel(["0" * 10], "by the user")
    assert SweepNotifier(sweep).check()
    assert len((tmp_path / "text").read_text().splitlines()) == 2
