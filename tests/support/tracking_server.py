"""MLflow's tracking server in one process, which can be a fork of `preloaded.py`.

`mlflow server` serves the same application; tests/experiments/tracking/test_auth.py starts it. The imports of its two
interpreters take 7 s of a core.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Serve an SQLite store: `python -m tests.support.tracking_server DATABASE PORT`."""
    database, port = Path(sys.argv[1]), int(sys.argv[2])
    os.environ.update(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    uri, artifacts = f"sqlite:///{database}", str(database.parent / "served")
    os.environ.update({constants.BACKEND_STORE_URI_ENV_VAR: uri, constants.ARTIFACT_ROOT_ENV_VAR: artifacts})
    initialize_backend_stores(uri, uri, artifacts)
    from mlflow.server.fastapi_app import app

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
