"""The server process of `experiments.tracking.ui`: MLflow's web application on the loopback interface, without its assistant.

The assistant of MLflow 3.17 runs shell commands for every user who can reach the port, on a login node all of them, and no
setting disables it (2026-11-23). The `mlflow server` command cannot leave it out.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ASSISTANT_PATH = "/mlflow/assistant"


def block_assistant(app: App) -> App:
    """Wrap a web application so that the routes of the assistant answer 404."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and _ASSISTANT_PATH in str(scope["path"]).lower():
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    return guarded


def main() -> None:
    """Serve the store that MLFLOW_BACKEND_STORE_URI names, until a signal arrives or the parent process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True, help="id of the process whose end ends the server")
    args = parser.parse_args()
    threading.Thread(target=_end_with, args=(args.parent,), daemon=True).start()
    os.environ.update(
        {
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"localhost:{args.port},127.0.0.1:{args.port}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 11 processes and 2 GB, for GenAI features
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
        }
    )
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    uri, artifacts = os.environ["MLFLOW_BACKEND_STORE_URI"], args.artifacts.as_uri()
    os.environ.update(
        {
            constants.BACKEND_STORE_URI_ENV_VAR: uri,
            constants.REGISTRY_STORE_URI_ENV_VAR: uri,
            constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        }
    )
    initialize_backend_stores(uri, uri, "mlflow-artifacts:/")
    from mlflow.server.fastapi_app import app

    uvicorn.run(
        block_assistant(app), host="127.0.0.1", port=args.port, log_level="warning", timeout_graceful_shutdown=3
    )


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a parent that is killed with -9 cannot do it."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
