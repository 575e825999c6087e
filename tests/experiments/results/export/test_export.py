"""Models of real runs: exported, logged, registered; loaded and served where nothing of Lathe is installed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from experiments.cli.main import main
from experiments.components.assemble import assemble
from experiments.core.errors import InputError
from experiments.plan.plan import make_plan
from experiments.run.journal import replay
from experiments.tracking.model.final_model import find_final_model, read_interface
from experiments.tracking.model.loader import _load_pyfunc
from experiments.tracking.run_sync import RunSync, sync_run
from experiments.tracking.sweep_sync import sync_all
from experiments.train.data_loading import DataShard, EvaluationLoader
from experiments.train.trainer import _make_engine_config
from experiments.trial.trial import Trial, to_yaml
from modules.parallel.base import Rank
from tests.support.preloaded import make_command
from tests.support.stores import DEAD_PID, forked_server, free_port, rewrite_states, sql
from tests.support.waiting import PATIENCE_S, wait_until

RUN = ["model=lenet", "max_steps=20", "eval_every_steps=10", "checkpoint.every_steps=20"]
MODELS = "select name, lifecycle_stage, status from logged_models"
READY = 2
LOAD = """
import importlib.util, sys
import numpy as np
assert importlib.util.find_spec("experiments") is None
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1], model_config={"device": "cpu"})
inputs = np.load(sys.argv[2])
raw = model.get_raw_model()
answers = {name: raw.predict(inputs, params={"answer": name}) for name in ("outputs", "probabilities", "labels")}
np.savez(sys.argv[3], **answers)
import experiments, modules
print(experiments.__file__, modules.__file__)
"""

KILLED = """
import os, signal, sys
from pathlib import Path
from experiments.tracking.model import mlflow_model
from experiments.tracking.run_sync import sync_run
from experiments.trial.trial import Trial
mlflow_model.ModelStore._set_ids = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sync_run(Trial(Path(sys.argv[1])))
"""


def cli(server: Path, *args: str, cwd: Path) -> str:
    command = [*make_command(server), *args]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, preloaded: Path) -> Trial:
    """A run of 20 steps whose model is in its store and registered."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "runs").mkdir()
    shutil.copy(empty_store, folder / "runs" / "mlflow.db")
    cli(preloaded, "run", *RUN, f"runs_dir={folder / 'runs'}", "tracking.register_as=digits-lenet", cwd=folder)
    return Trial(next((folder / "runs" / "single").glob("*/")))


@pytest.fixture(scope="module")
def exported(trained: Trial) -> Path:
    folder = trained.runs_dir.parent / "model"
    with redirect_stdout(StringIO()) as output:
        assert main(["export", trained.id, "-o", str(folder), "--runs-dir", str(trained.runs_dir)]) == 0
    assert "takes images, gives the answers of `lathe predict`" in output.getvalue()
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that has everything but Lathe; beside it the server that MLflow starts by name."""
    folder = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=PATIENCE_S)
    python = folder / "bin" / "python"
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site_packages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # A folder that such a file adds has its own such files left alone, and it is by one that Lathe is installed.
    Path(site_packages, "all.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    server = folder / "bin" / "uvicorn"
    server.write_text(f"#!{python}\nfrom uvicorn.main import main\nmain()\n")
    server.chmod(0o755)
    return python


def elsewhere(python: Path, **more: str) -> dict[str, str]:
    """An environment without variables of this one."""
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", "HOME": str(python.parents[1])}
    return {"PATH": f"{python.parent}:/usr/bin:/bin", **quiet, **more}


def load_elsewhere(python: Path, uri: str, inputs: np.ndarray, **more: str) -> tuple[dict[str, np.ndarray], str]:
    """What a model answers in another process and folder, and where its code came from."""
    folder = python.parents[1]
    np.save(folder / "inputs.npy", inputs)
    command = [str(python), "-c", LOAD, uri, "inputs.npy", "answers.npz"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=elsewhere(python, **more),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "answers.npz") as answers:
        return dict(answers), done.stdout


def loaded(folder: Path) -> Any:
    """The model of a folder without its preprocessing, in this process."""
    return _load_pyfunc(str(folder / "data" / "model"), {"device": "cpu"}).get_raw_model()


def as_evaluated(trial: Trial) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """The validation images, what the engine's model gives for them, and the engine's own metrics."""
    config = trial.config
    parts = assemble(config)
    parts.engine.prepare(parts.setup, _make_engine_config(config, make_plan(config), Rank()))
    parts.engine.load(find_final_model(trial).checkpoint.folder)
    split = parts.data.load("val")
    batches = list(EvaluationLoader(split, config["batch_size_eval"], 0, DataShard(0, 1)))
    metrics = parts.engine.evaluate(batches, parts.evaluator)
    ((inputs, _), _) = batches[0]
    assert isinstance(inputs, torch.Tensor)
    with torch.inference_mode():
        outputs = parts.setup.model.eval()(inputs)
    return inputs.numpy(), outputs.numpy(), metrics


@pytest.mark.slow
def test_an_exported_model_predicts_as_in_evaluation(trained: Trial, exported: Path, plain: Path) -> None:
    images, outputs, metrics = as_evaluated(trained)
    points = [event for event in replay(trained.folder) if event["event"] == "metrics"]
    journaled = {key: value for event in points if event["step"] == 20 for key, value in event["metrics"].items()}
    assert metrics["loss_nats"] == journaled["val/loss_nats"]
    answers, places = load_elsewhere(plain, str(exported), images)
    assert answers["outputs"].tobytes() == outputs.tobytes()
    assert np.array_equal(answers["labels"], outputs.argmax(1))
    assert np.allclose(answers["probabilities"].sum(1), 1)
    own = exported / "code" / "lathe"
    assert places.split() == [f"{own}/experiments/__init__.py", f"{own}/modules/__init__.py"]


@pytest.mark.slow
def test_a_registered_model_is_loaded_from_the_store_by_name(trained: Trial, plain: Path) -> None:
    images, outputs, _ = as_evaluated(trained)
    store = f"sqlite:///{trained.runs_dir / 'mlflow.db'}"
    answers, places = load_elsewhere(plain, "models:/digits-lenet/1", images[:3], MLFLOW_TRACKING_URI=store)
    assert np.allclose(answers["outputs"], outputs[:3], rtol=1e-5)  # of another batch size, so not to the bit
    assert f"{trained.runs_dir}/artifacts/models/" in places


@contextmanager
def serving(python: Path, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [str(python), "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", str(folder)]
    folder = python.parents[1]
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder, env=elsewhere(python), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def answers() -> bool:
        assert server.poll() is None, (folder / "serve.log").read_text()
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return True
        except OSError:
            return False

    try:
        wait_until(answers)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def post(address: str, body: dict[str, Any]) -> Any:
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE_S) as response:
        return json.loads(response.read())["predictions"]


@pytest.mark.slow
def test_a_model_is_served_without_lathe(exported: Path, plain: Path) -> None:
    example = json.loads((exported / "serving_input_example.json").read_text())
    pixels = np.array(example["inputs"], np.uint8)
    model = _load_pyfunc(str(exported / "data" / "model"), {"device": "cpu"})
    with serving(plain, exported) as address:
        assert post(address, example) == model.predict(pixels).to_dict("records")
        labels = post(address, {**example, "params": {"answer": "labels"}})
    assert labels == model.predict(pixels, {"answer": "labels"}).tolist()


@pytest.mark.slow
def test_nothing_in_the_folder_is_pickled(exported: Path) -> None:
    # Of MLflow's own import of the loader, when another test has loaded the model.
    files = [path for path in exported.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert {path.suffix for path in files} == {"", ".yaml", ".json", ".txt", ".py", ".safetensors"}
    assert all(path.name == "MLmodel" for path in files if not path.suffix)
    for path in files:
        with pytest.raises(Exception), path.open("rb") as file:  # noqa: B017, PT011  # whatever it says, it is none
            pickle.load(file)
        assert b"pickle" not in path.read_bytes().lower() or path.suffix == ".py"
    assert len({path.stat().st_mode for path in files}) == 1
    with safe_open(exported / "data" / "model" / "model.safetensors", "pt") as weights:
        assert len(weights.keys()) == 8


@pytest.mark.slow
def test_the_folder_has_the_metadata_of_mlflow(trained: Trial, exported: Path) -> None:
    metadata = yaml.safe_load((exported / "MLmodel").read_text())
    flavor = metadata["flavors"]["python_function"]
    assert (flavor["loader_module"], flavor["data"], flavor["code"]) == ("lathe_loader", "data/model", "code")
    inputs, params = (json.loads(metadata["signature"][key]) for key in ("inputs", "params"))
    assert inputs[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, -1, -1, -1]}
    assert (params[0]["name"], params[0]["default"]) == ("answer", "prediction")
    assert metadata["model_size_bytes"] > (exported / "data" / "model" / "model.safetensors").stat().st_size
    required = [line.partition("==")[0] for line in (exported / "requirements.txt").read_text().split()]
    assert required == ["mlflow", "torch", "numpy", "safetensors", "pyyaml", "pandas", "pillow"]
    facts = yaml.safe_load((exported / "data" / "model" / "model.yaml").read_text())
    assert facts["model"] == trained.config["model"]
    assert facts["chosen"].startswith("best by val/accuracy_top1=")
    with open(exported / "input_example.json") as file:
        assert np.array(json.load(file)).shape == (1, 8, 8, 1)


@pytest.mark.slow
def test_the_run_has_its_model_in_the_store_with_its_metrics(trained: Trial) -> None:
    database = trained.runs_dir / "mlflow.db"
    assert sql(database, MODELS) == [("lenet-digits", "active", READY)]
    assert sql(database, "select name, version from model_versions") == [("digits-lenet", 1)]
    ((model_id, run_id),) = sql(database, "select model_id, source_run_id from logged_models")
    assert sql(
        database, "select source_id, destination_id, step from inputs where destination_type = 'MODEL_OUTPUT'"
    ) == [(run_id, model_id, 20)]
    names = sql(database, "select metric_name from logged_model_metrics order by metric_name")
    assert [name for (name,) in names] == ["test/accuracy_top1", "test/loss_nats", "val/accuracy_top1", "val/loss_nats"]
    tags = dict(sql(database, "select tag_key, tag_value from logged_model_tags"))
    assert json.loads(tags["mlflow.modelVersions"]) == [{"name": "digits-lenet", "version": 1}]
    assert "inputs: `images`" in tags["mlflow.note.content"]
    points = sum(len(event["metrics"]) for event in replay(trained.folder) if event["event"] == "metrics")
    assert sql(database, "select count(*) from metrics") == [(points,)]
    assert not (trained.folder / ".model").exists()


@pytest.mark.slow
def test_a_second_sync_logs_and_registers_nothing(trained: Trial) -> None:
    database = trained.runs_dir / "mlflow.db"
    before = [sql(database, f"select * from {table}") for table in ("logged_models", "model_versions", "inputs")]
    first = sync_run(trained)
    (trained.folder / "sync.json").unlink()
    again = sync_run(trained)
    assert first.model == again.model
    assert again.model is not None
    assert again.model.uri == "models:/digits-lenet/1"
    after = [sql(database, f"select * from {table}") for table in ("logged_models", "model_versions", "inputs")]
    assert after == before


@pytest.fixture
def copied(trained: Trial, runs_dir: Path) -> Trial:
    """The same run in another store, which knows nothing of it."""
    folder = runs_dir / "single" / trained.id
    shutil.copytree(trained.folder, folder)
    (folder / "sync.json").unlink(missing_ok=True)
    return Trial(folder)


def with_tracking(trial: Trial, **changes: Any) -> Trial:
    config = {**trial.config, "tracking": {**trial.config["tracking"], **changes}}
    (trial.folder / "trial.yaml").write_text(to_yaml(config))
    return Trial(trial.folder)


@pytest.mark.slow
def test_a_model_that_cannot_be_logged_is_reported_and_logged_by_the_next_sync(copied: Trial) -> None:
    database, in_the_way = copied.runs_dir / "mlflow.db", copied.runs_dir / "artifacts" / "models"
    in_the_way.parent.mkdir()
    in_the_way.touch()
    done = sync_run(copied)
    assert done.model is None
    assert done.warning is not None
    assert done.warning.startswith(f"the model of run '{copied.id}' was not logged: ")
    assert done.warning.endswith(f"`lathe sync {copied.reference}` retries")
    assert sql(database, "select status from runs") == [("FINISHED",)]
    assert sql(database, f"{MODELS} where lifecycle_stage != 'deleted'") == []
    in_the_way.unlink()
    again = sync_run(copied)
    assert (again.warning, again.points) == (None, 0)
    assert sql(database, f"{MODELS} where lifecycle_stage != 'deleted'") == [("lenet-digits", "active", READY)]


@pytest.mark.slow
def test_an_incomplete_model_of_a_killed_sync_is_completed(copied: Trial) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(copied.folder)], timeout=PATIENCE_S, check=False)
    assert killed.returncode == -signal.SIGKILL
    database = copied.runs_dir / "mlflow.db"
    ((half, status),) = sql(database, "select model_id, status from logged_models")
    assert status != READY
    done = sync_run(copied)
    assert done.model is not None
    assert (done.model.id, done.warning) == (half, None)
    assert sql(database, MODELS) == [("lenet-digits", "active", READY)]


@pytest.mark.slow
def test_without_log_model_a_model_is_logged_only_to_register_it(copied: Trial) -> None:
    trial = with_tracking(copied, log_model=False, register_as=None)
    assert sync_run(trial).model is None
    assert sql(trial.runs_dir / "mlflow.db", MODELS) == []
    assert [RunSync(trial).log_model("by-hand").uri for _ in range(2)] == ["models:/by-hand/1"] * 2
    assert sql(trial.runs_dir / "mlflow.db", MODELS) == [("lenet-digits", "active", READY)]


@pytest.mark.slow
def test_a_large_model_is_logged_only_on_request(copied: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.tracking.model import log_model

    monkeypatch.setattr(log_model, "MAX_AUTOMATIC_GB", 0.001)
    done = sync_run(copied)
    assert done.warning is not None
    assert "its weights have 0.0 GB, and models above 0.001 GB are not logged automatically" in done.warning
    assert RunSync(copied).log_model("large").uri == "models:/large/1"


@pytest.mark.slow
def test_a_run_that_cannot_be_exported_is_reported(copied: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    best = next((copied.folder / "checkpoints").glob("step_*20")) / "model.safetensors"
    good = best.read_bytes()
    best.write_bytes(good[:-4] + b"xxxx")
    with pytest.raises(InputError, match=r"step 20 in .* is damaged .* the wrong checksum; restore the file"):
        find_final_model(copied)
    out = copied.runs_dir / "out"
    assert main(["export", copied.id, "-o", str(out), "--runs-dir", str(copied.runs_dir)]) == 2
    assert "is damaged and was skipped" in capsys.readouterr().err
    assert not out.exists()
    warning = sync_run(copied).warning
    assert warning is not None
    assert "is damaged" in warning
    shutil.rmtree(copied.folder / "checkpoints")
    with pytest.raises(InputError, match=f"run '{copied.id}' has no checkpoint in .*; restore it, or train again"):
        find_final_model(copied)
    (copied.folder / "outcome.json").unlink()
    journal = copied.folder / "attempts" / "1" / "journal.jsonl"
    rewrite_states(journal, state="running", pid=DEAD_PID)
    with pytest.raises(InputError, match="is running, and only a finished run has a final model; run `lathe resume"):
        find_final_model(copied)
    journal.unlink()
    with pytest.raises(InputError, match="is not started, and only a finished"):
        find_final_model(copied)


@pytest.mark.slow
def test_the_last_checkpoint_is_used_if_there_is_no_best_one(copied: Trial) -> None:
    (copied.folder / "checkpoints" / "best.json").unlink()
    assert (find_final_model(copied).checkpoint.step, find_final_model(copied).reason) == (20, "last")
    assert read_interface(copied) == read_interface(Trial(copied.folder))


@pytest.mark.slow
def test_two_models_with_different_code_work_in_one_process_with_lathe(exported: Path, tmp_path: Path) -> None:
    import modules.model.lenet

    other = tmp_path / "model"
    shutil.copytree(exported, other)
    source = other / "code" / "lathe" / "modules" / "model" / "lenet.py"
    source.write_text(source.read_text().replace("self.stack(images)", "self.stack(images) * 2"))
    path, images = list(sys.path), np.ones((2, 1, 8, 8), np.float32)
    first, second = (loaded(each) for each in (exported, other))
    assert np.array_equal(first.predict(images) * 2, second.predict(images))
    assert type(first.model) is not modules.model.lenet.LeNet
    assert sys.modules["modules.model.lenet"] is modules.model.lenet
    assert sys.path == path


@pytest.mark.slow
def test_only_the_best_model_of_a_sweep_is_logged_to_a_server(
    tmp_path: Path, served_store: Path, preloaded: Path
) -> None:
    port = free_port()
    swept = ["optimizer.lr=0.001,0.1", "model=softmax", "max_steps=4", "eval_every_steps=4", "tracking=server"]
    own = [f"tracking.store=http://127.0.0.1:{port}", "tracking.register_as=best", f"runs_dir={tmp_path / 'runs'}"]
    with forked_server(preloaded, served_store, port):
        cli(preloaded, "run", "-m", *swept, *own, "tracking.sync=off", cwd=tmp_path)
        first, again = sync_all(tmp_path / "runs"), sync_all(tmp_path / "runs")
    assert (first.runs, first.failures, first.warnings) == (2, (), ())
    assert again == (2, 0, (), ())
    assert sql(served_store, MODELS) == [("lr=0_1", "active", READY)]
    runs = "select r.name, v.name, v.version from model_versions v join runs r on r.run_uuid = v.run_id"
    assert sql(served_store, runs) == [("lr=0.1", "best", 1)]


@pytest.mark.slow
def test_a_language_model_is_exported_with_its_tied_weights(
    tmp_path: Path, preloaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(os.environ.get("LATHE_DATA", "~/.cache/lathe/data")).expanduser()
    if not (data / "shakespeare").is_dir():
        pytest.skip(f"needs the text of data=shakespeare_char in {data}; `lathe data` says where it is from")
    text = ["model=gpt_nano", "data=shakespeare_char", "evaluator=perplexity", "checkpoint.best_metric=val/loss_nats"]
    small = [
        "checkpoint.best_mode=min",
        "max_steps=2",
        "batch_size_global=2",
        "data.context_tokens=16",
        "data.num_train=null",
    ]
    cli(preloaded, "run", *text, *small, f"runs_dir={tmp_path / 'runs'}", "tracking=off", cwd=tmp_path)
    trial = Trial(next((tmp_path / "runs" / "single").glob("*/")))
    assert main(["export", trial.id, "-o", str(tmp_path / "model"), "--runs-dir", str(tmp_path / "runs")]) == 0
    assert "takes texts, gives the answers of `lathe predict`" in capsys.readouterr().out
    model = loaded(tmp_path / "model")
    parts = assemble(trial.config)
    parts.engine.prepare(parts.setup, _make_engine_config(trial.config, make_plan(trial.config), Rank()))
    parts.engine.load(find_final_model(trial).checkpoint.folder)
    texts = torch.arange(15).reshape(3, 5)
    with torch.inference_mode():
        expected = parts.setup.model.eval()(texts).numpy()
    assert model.predict(texts.numpy()).tobytes() == expected.tobytes()
