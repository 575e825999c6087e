"""The server process of `experiments.tracking.ui`: the part of MLflow's web application that reads, on the loopback interface.

The `mlflow server` command cannot leave out what writes. Its assistant (MLflow 3.17) even runs shell commands for every user who
can reach the port, on a login node all of them, and no setting disables it (2026-11-23). See `experiments.tracking.ui_access`.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

from experiments.tracking import ui_access


def confine_artifacts(root: Path) -> None:
    """Make MLflow read artifacts only below one folder of this machine, through no link, and never write any.

    The location of an artifact comes from the store, where each user of the store can write any path and address.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
    from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    refused = MlflowException(
        f"`lathe ui` shows only files below {root}, through no link, and writes none", error_code=PERMISSION_DENIED
    )

    class ReadOnlyArtifacts(LocalArtifactRepository):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._check(self.artifact_dir)

        def _check(self, path: str) -> None:
            is_inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
            if root.is_symlink() or not is_inside or not is_plain(Path(path)):
                raise refused

        def get_local_path(self, artifact_path: str) -> str:
            self._check(os.path.join(self.artifact_dir, artifact_path))
            return str(super().get_local_path(artifact_path))

        def list_artifacts(self, path: str | None = None) -> list[Any]:
            self._check(os.path.join(self.artifact_dir, path or ""))
            found = super().list_artifacts(path)  # type: ignore[no-untyped-call]
            return [entry for entry in found if is_plain(Path(self.artifact_dir, entry.path))]

        def refuse(self, *args: Any, **kwargs: Any) -> Any:
            raise refused

        log_artifact = log_artifacts = delete_artifacts = refuse
        log_artifact_from_stream = log_artifact_from_async_stream = _download_file = refuse

    def is_plain(path: Path) -> bool:
        """Whether a path is no link, FIFO or device, nor below a link that is in the folder."""
        links = [part for part in (path, *path.parents) if part.is_relative_to(root) and part.is_symlink()]
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        return not links and (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    repositories: dict[str, Any] = get_registered_artifact_repositories()
    repositories.update(
        dict.fromkeys(repositories, ReadOnlyArtifacts)
    )  # other locations, such as s3://, are not below root


def main() -> None:
    """Serve the store that MLFLOW_BACKEND_STORE_URI names, until a signal arrives or the parent process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listener", type=int, required=True, help="descriptor of a listening socket")
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True, help="id of the process whose end ends the server")
    args = parser.parse_args()
    token = os.environ.pop(ui_access.TOKEN_VARIABLE)
    threading.Thread(target=_end_with, args=(args.parent,), daemon=True).start()
    listener = socket.socket(fileno=args.listener)
    port = listener.getsockname()[1]
    os.environ.update(
        {
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"localhost:{port},127.0.0.1:{port}",
            "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 11 processes and 2 GB, for GenAI features
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
        }
    )
    for name in (
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
        "MLFLOW_DEPLOYMENTS_TARGET",
    ):  # the second is a server to pass requests to
        os.environ.pop(name, None)
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    os.environ.update(
        {
            constants.BACKEND_STORE_URI_ENV_VAR: uri,
            constants.REGISTRY_STORE_URI_ENV_VAR: uri,
            constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: args.artifacts.as_uri(),
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        }
    )
    confine_artifacts(args.artifacts)
    initialize_backend_stores(uri, uri, "mlflow-artifacts:/")
    from mlflow.server.fastapi_app import app

    config = uvicorn.Config(ui_access.guard(app, token), log_level="warning", timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listener])


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a parent that is killed with -9 cannot do it."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
