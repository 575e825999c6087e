"""An MLflow server with basic authentication: unknown users are refused, and no password is stored."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from experiments.tracking.sweep_sync import sync_all
from experiments.tracking.ui import serve
from tests.support import ledgers
from tests.support.recorded_sweeps import make_swept, run_trial
from tests.support.stores import free_port, log_steps, make_run, mlflow_server, sql, start_attempt, write_outcome
from tests.support.waiting import PATIENCE_S

ADMIN, PASSWORD = "admin", "correct-horse-battery"
READER = "reader-without-rights"
OPTIONS = ("--app-name", "basic-auth")


def log_in(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def add_reader(address: str) -> None:
    """Create a user who may only read, the default for new users."""
    login = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    body = json.dumps({"username": READER, "password": PASSWORD}).encode()
    with urlopen(Request(f"{address}/api/2.0/mlflow/users/create", body, headers), timeout=PATIENCE_S) as answer:
        assert answer.status == 200


@pytest.mark.slow
def test_runs_are_synced_to_a_server_with_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("needs Flask-WTF, of the extra dev")
    (served := tmp_path / "served").mkdir()
    (served / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{served}/users.db\nadmin_username = {ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n"
    )
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
    environment = {**secrets, "MLFLOW_AUTH_CONFIG_PATH": str(served / "auth.ini")}
    runs_dir, port = tmp_path / "runs", free_port()
    address, store = f"http://127.0.0.1:{port}", "${oc.env:MLFLOW_TRACKING_URI}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    trial = make_run(runs_dir, store=store)
    with start_attempt(trial) as journal:
        log_steps(journal, range(1200))
    write_outcome(trial)
    sweep = make_swept(runs_dir, [{"optimizer.lr": 0.1}], store=store, sync="off")
    run_trial(sweep, ledgers.ids(1)[0], 0.5)
    with mlflow_server(served / "mlflow.db", port, *OPTIONS, env=environment):
        wanted = "it requires a login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        assert wanted in " ".join(sync_all(runs_dir).failures)
        log_in(monkeypatch, ADMIN, "wrong")
        assert wanted in " ".join(sync_all(runs_dir, ["a1b2c3"]).failures)
        log_in(monkeypatch, ADMIN, PASSWORD)
        summary = sync_all(runs_dir)
        assert (summary.runs, summary.failures) == (2, ())
        assert sql(served / "mlflow.db", "select count(*) from metrics where key = 'train/time_s'") == [(1200,)]
        add_reader(address)
        log_in(monkeypatch, READER, PASSWORD)
        other = make_run(runs_dir, "reader", store=store)
        start_attempt(other).close()
        assert "this user has no permission (403)" in " ".join(sync_all(runs_dir, ["reader"]).failures)
        log_in(monkeypatch, ADMIN, PASSWORD)
        lines: list[str] = []
        assert serve(runs_dir, store=store, say=lines.append) == 0
        assert lines[0] == f"{address}/#/experiments/1/runs?workflowType=machine_learning"
        view = f"{address}/#/experiments/1/runs?viewStateShareKey={sweep.key[:12]}&workflowType=machine_learning"
        assert lines[1:] == [f"  sweep probe  {view}&compareRunsMode=CHART"]
    assert not [path for path in runs_dir.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
