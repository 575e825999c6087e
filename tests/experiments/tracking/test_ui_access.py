"""What the server of `lathe ui` answers: nothing without its token, and only requests that read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from experiments.tracking.ui_access import MAX_BODY_BYTES, guard, make_token
from experiments.tracking.ui_server import confine_artifacts

TOKEN = "aIpqO2O48tNlF0iN6AvKQssym1JyE-GiTn2Ja_Z7QN0"  # as from make_token: a random one would change the names of the tests
FILE = "/get-artifact"
SEARCH = "/ajax-api/2.0/mlflow/runs/search"


async def echo(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """An application that answers 200 and the path that it sees, once it has the whole body."""
    while (message := await receive()).get("more_body"):
        pass
    assert message["type"] == "http.request"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def ask(raw_path: str, method: str = "GET", kind: str = "http", headers: Any = (), body: bytes = b"") -> list[Any]:
    """Send a request through the guard; return the messages of the answer."""
    scope = {
        "type": kind,
        "method": method,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(errors="replace"),
        "headers": headers,
    }
    answer: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        answer.append(message)

    async def request() -> None:
        await guard(echo, TOKEN)(scope, receive, send)

    asyncio.run(request())
    return answer


def status(*args: Any, **kwargs: Any) -> int:
    return int(ask(*args, **kwargs)[0]["status"])


def test_token_opens_what_reads_and_is_taken_off_the_path() -> None:
    start, body = ask(f"/{TOKEN}/ajax-api/2.0/mlflow/experiments/get")
    assert (start["status"], body["body"]) == (200, b"/ajax-api/2.0/mlflow/experiments/get")
    assert (b"referrer-policy", b"no-referrer") in start["headers"]
    for path in ("/", "/health", "/static-files/static/js/main.1.js", FILE, "/ajax-api/2.0/mlflow/logged-models/m-1"):
        assert status(f"/{TOKEN}{path}") == status(f"/{TOKEN}{path}", "HEAD") == 200
    assert status(f"/{TOKEN}{SEARCH}", "POST", body=b"{}") == 200
    assert len({make_token() for _ in range(9)}) == 9


@pytest.mark.parametrize(
    "path",
    ["/", "/health", "/x/health", f"/{TOKEN}", f"/{TOKEN}x/health", f"/{TOKEN[:-1]}/health", f"/{TOKEN.swapcase()}/health",
     f"//{TOKEN}/health", f"/%2f{TOKEN}/health", f"/x/{TOKEN}/health", f"/{TOKEN}%00/health", "/\xe9/health", "/\udcff/",
     f"/health?token={TOKEN}", "", "*"],
)  # fmt: skip
def test_missing_or_wrong_token_is_refused_in_every_place(path: str) -> None:
    for kind in (b"cookie", b"authorization", b"referer", b"x-token"):
        assert status(path, headers=[(kind, TOKEN.encode())]) == 403


@pytest.mark.parametrize(
    "path",
    ["/ajax-api/2.0/mlflow/../mlflow/runs/get", "/static-files/..%2f..%2fetc/passwd", "/static-files/%2e%2e/x",
     "/static-files//etc/passwd", "/static-files/a\\..\\b", "/static-files/a%00", "//health", "/health/", "/health%0a",
     "/AJAX-API/2.0/mlflow/runs/get", "/ajax-api/2.0/mlflow-artifacts/artifacts/1/x", "/api/2.0/mlflow-artifacts/presigned/x",
     "/ajax-api/3.0/mlflow/jobs/1", "/ajax-api/3.0/mlflow/%61ssistant/config",
     "/ajax-api/2.0/mlflow/runs/get/../../../3.0/mlflow/assistant/config", "/ajax-api/2.0/mlflow/model-versions/get-download-uri",
     "/ajax-api/2.0/mlflow/logged-models/a/b/artifacts/files", "/v1/traces", "/build/index.html", "/metrics"],
)  # fmt: skip
def test_path_that_is_not_needed_for_reading_is_refused(path: str) -> None:
    assert status(f"/{TOKEN}{path}") == 403


def test_request_that_writes_is_refused() -> None:
    writes = (
        "experiments/create", "runs/create", "runs/set-tag", "runs/delete", "upload-artifact", "registered-models/create",
        "logged-models", "runs/create-promptlab-run", "model-versions/create", "artifacts/presigned-upload-url",
    )  # fmt: skip
    assert {status(f"/{TOKEN}/ajax-api/2.0/mlflow/{path}", "POST") for path in writes} == {403}
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", ""):
        assert status(f"/{TOKEN}{FILE}", method) == 403
    assert [status(f"/{TOKEN}{SEARCH}", method) for method in ("PUT", "DELETE", "PATCH")] == [403, 403, 403]
    assert ask(f"/{TOKEN}/graphql", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    with pytest.raises(AssertionError):  # the application sees that the client has gone
        ask(f"/{TOKEN}{SEARCH}", "POST", body=b"x" * (MAX_BODY_BYTES + 1))


def test_artifacts_are_read_only_below_the_folder_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact import artifact_repository_registry as registry

    monkeypatch.setattr(
        registry._artifact_repository_registry, "_registry", dict(registry.get_registered_artifact_repositories())
    )
    root, secret = tmp_path / "artifacts", tmp_path / "secret"
    (root / "run").mkdir(parents=True)
    secret.write_text("x")
    (root / "run" / "a.txt").write_text("mine")
    (root / "run" / "link").symlink_to(secret)
    (root / "run" / "up").symlink_to(tmp_path)
    (root / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(root / "run" / "pipe")
    confine_artifacts(root)
    run = registry.get_artifact_repository((root / "run").as_uri())
    assert run.get_local_path("a.txt") == str(root / "run" / "a.txt")
    assert [entry.path for entry in run.list_artifacts()] == ["a.txt"]
    for path in ("link", "up/secret", "pipe", "../../secret"):
        with pytest.raises(MlflowException, match=r"shows only files below|Invalid"):
            run.get_local_path(path)
    for uri in (tmp_path.as_uri(), str(tmp_path), f"{root.as_uri()}/..", f"{root.as_uri()}/elsewhere", "file:///etc", "s3://bucket/x",
                "sftp://host/x", "runs:/x/y", "models:/x/1", f"{root}-other"):  # fmt: skip
        with pytest.raises(MlflowException, match="shows only files below"):
            registry.get_artifact_repository(uri)
    for write in (run.log_artifact, run.log_artifacts, run.delete_artifacts):
        with pytest.raises(MlflowException, match="writes none"):
            write(str(secret))
    assert sorted(path.name for path in root.rglob("*")) == ["a.txt", "elsewhere", "link", "pipe", "run", "up"]
