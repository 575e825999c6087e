from __future__ import annotations

import math
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.core.errors import InputError
from experiments.results.share.shared_file import read
from experiments.sweep.create import extend, prepare, write
from experiments.sweep.spec import from_overrides
from experiments.trial.trial import trial_id
from tests.support.hostile_files import FILES
from tests.support.shares import bundled, put, text, values

TOLD = Path(__file__).parents[3] / "bad_inputs" / "shared" / "expected.txt"
HIDDEN = "hunter2-of-the-receiver"


def transcripts() -> dict[str, str]:
    """What is said of every strange file, by its name."""
    blocks = TOLD.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return {(lines := block.split("\n"))[0].rpartition(" ")[2]: "\n".join(lines[1:]) for block in blocks}


class Watch:
    """What this process does to the world while it is watched, by Python's own audit."""

    def __init__(self) -> None:
        self.is_on = False
        self.done: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open" and args[0] != os.devnull and isinstance(args[2], int):
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes:
                self.done.append(f"open {args[0]}")
        elif event in STARTS or event.startswith(
            ("os.exec", "os.spawn", "os.rename", "os.mkdir", "os.link", "os.symlink")
        ):
            self.done.append(f"{event} {args!r:.99}")


STARTS = {
    "subprocess.Popen",
    "os.system",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "socket.connect",
    "os.remove",
    "os.chmod",
}
WATCH = Watch()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, deep enough that what climbs out of it is seen."""
    place = tmp_path / "one" / "two"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", HIDDEN)
    monkeypatch.setenv("LATHE_RUNS", "runs")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return place


@pytest.fixture
def watch() -> Iterator[Watch]:
    WATCH.done = []
    WATCH.is_on = True
    yield WATCH
    WATCH.is_on = False


def everything(top: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(top.rglob("*"))}


@pytest.mark.parametrize("name", FILES)
def test_a_strange_file_is_refused_to_the_letter_and_does_nothing(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    FILES[name](folder / name)
    before = everything(tmp_path)
    watch = request.getfixturevalue("watch")
    code = main(["run", "--from", name])
    watch.is_on = False
    shown = capsys.readouterr()
    assert re.sub(r"(\.yaml):\d+", r"\1:LINE", shown.err).rstrip("\n") == transcripts()[name]
    assert shown.out == ""
    assert code == 2
    assert watch.done == []
    assert everything(tmp_path) == before
    assert HIDDEN not in shown.err


@pytest.mark.parametrize("name", ["system.yaml", "evil_package.yaml", "nested_target.yaml", "laughs.yaml", "up.tar.gz"])
def test_a_strange_file_is_not_reproduced_either(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    FILES[name](folder / name)
    before = everything(tmp_path)
    watch = request.getfixturevalue("watch")
    code = main(["reproduce", name])
    watch.is_on = False
    shown = capsys.readouterr()
    assert re.search(r"not on the list of code|repeats a part by a name|leads out of the archive", shown.err)
    assert (code, shown.out) == (2, "")
    assert [event for event in watch.done if not event.startswith("os.mkdir")] == []  # a scratch folder, empty again
    assert everything(tmp_path) == before


def test_every_message_about_a_strange_file_has_a_way_out() -> None:
    told = transcripts()
    assert told.keys() == FILES.keys()
    lines = [line for text in told.values() for line in text.splitlines() if line.startswith("  - ")]
    assert len(lines) >= len(FILES) > 100
    assert [line for line in lines if not re.search(r"[;?]", line)] == []
    assert "Traceback" not in TOLD.read_text()


def test_the_watch_sees_what_a_file_could_do(folder: Path, watch: Watch) -> None:
    (folder / "written").write_text("x")
    os.system(":")
    (folder / "made").mkdir()
    assert [event.split()[0] for event in watch.done] == ["open", "os.system", "os.mkdir"]


def test_a_whole_file_says_what_was_shared(folder: Path) -> None:
    (folder / "it.yaml").write_text(text())
    shared, told = read(Path("it.yaml")), values()
    assert shared.configuration == told["configuration"]
    assert shared.trial_id == trial_id(told["configuration"])
    assert shared.expected == {"train/loss_nats": [(1, 2.5), (10, 1.25), (20, 0.5)]}
    assert shared.warnings == []
    record = shared.record()
    assert (record.name, record.trial_id, record.is_sampled) == ("it.yaml", shared.trial_id, True)
    assert record.data == {"files": None, "splits": told["data"]["splits"]}
    assert record.environment["packages"] == {"numpy": "2.4.6", "torch": "2.13.0+cpu"}


def test_data_that_states_no_checksums_is_told_by_names_and_sizes(folder: Path) -> None:
    told = put(values(), "data", {"files": None, "num_files": 3, "names_and_sizes_sha256": "0" * 64, "splits": {}})
    (folder / "it.yaml").write_text(text(told))
    assert read(Path("it.yaml")).record().data == {"num_files": 3, "names_and_sizes_sha256": "0" * 64, "splits": {}}


def test_a_file_from_before_may_name_a_branch(folder: Path) -> None:
    (folder / "it.yaml").write_text(text(put(values(), "code.0.branch", "main")))
    assert read(Path("it.yaml")).code[0]["branch"] == "main"


def test_an_archive_says_the_same_as_its_yaml_alone(folder: Path) -> None:
    bundled(folder / "it.tar.gz")
    (folder / "it.yaml").write_text(text())
    archived, alone = read(Path("it.tar.gz")), read(Path("it.yaml"))
    assert archived.configuration == alone.configuration
    assert alone.bundle is None
    assert archived.bundle is not None
    assert [*archived.bundle] == ["weights/model.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308, 5e-324, 0.1 + 0.2])
def test_a_metric_may_be_any_number_and_keeps_its_bits(value: float, folder: Path) -> None:
    told = put(values(), "expected.metrics.val/loss_nats", {"steps": [7], "values": [value]})
    (folder / "it.yaml").write_text(text(told))
    ((step, found),) = read(Path("it.yaml")).expected["val/loss_nats"]
    assert step == 7
    assert struct.pack("<d", found) == struct.pack("<d", value) or (math.isnan(found) and math.isnan(value))


def test_a_configuration_that_was_edited_is_told_and_still_runs(folder: Path) -> None:
    told = put(values(), "configuration.optimizer.lr", 0.5)
    (folder / "it.yaml").write_text(text(told))
    shared = read(Path("it.yaml"))
    (warning,) = shared.warnings
    assert re.fullmatch(r"the configuration in it.yaml makes trial \w{10}, and was shared as \w{10}: .+", warning)
    assert shared.experiment().config["optimizer"]["lr"] == 0.5


def test_an_experiment_of_a_shared_file_is_the_trial_that_was_shared(folder: Path) -> None:
    (folder / "it.yaml").write_text(text())
    shared = read(Path("it.yaml"))
    experiment = shared.experiment()
    assert trial_id(experiment.config) == shared.trial_id
    assert experiment.config == shared.configuration
    assert experiment.source == shared.trial_id


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["optimizer.lr=0.5"], "optimizer.lr", 0.5),
        (["optimizer=sgd"], "optimizer._target_", "torch.optim.sgd.SGD"),
        (["model=mlp"], "model.num_features", 64),
        (["runs_dir=elsewhere"], "runs_dir", "elsewhere"),
        (["tracking=off"], "tracking.sync", "off"),
        (["+tags.team=vision"], "tags.team", "vision"),
        (["hardware=cpu_4", "parallel=data"], "parallel._target_", "modules.parallel.data.DataParallel"),
        (["max_steps=7", "eval_every_steps=7"], "max_steps", 7),
    ],
)
def test_overrides_go_on_top_of_what_was_shared(overrides: list[str], key: str, value: object, folder: Path) -> None:
    (folder / "it.yaml").write_text(text(values("batch_size_global=32")))
    config = read(Path("it.yaml")).experiment(overrides).config
    node: Any = config
    for name in key.split("."):
        node = node[name]
    assert node == value
    assert config["batch_size_global"] == 32


def test_another_topology_takes_the_batch_of_a_device_away(folder: Path) -> None:
    (folder / "it.yaml").write_text(text(values("batch_size_per_device=64")))
    shared = read(Path("it.yaml"))
    assert shared.experiment(["optimizer=sgd"]).config["batch_size_per_device"] == 64
    moved = ["hardware=cpu_4", "parallel=data"]
    assert shared.experiment(moved).config["batch_size_per_device"] is None
    assert shared.experiment([*moved, "batch_size_per_device=8"]).config["batch_size_per_device"] == 8


def test_another_data_root_is_that_of_the_data_too(folder: Path) -> None:
    (folder / "it.yaml").write_text(text(values("data=cifar10", "model=cifar_cnn")))
    config = read(Path("it.yaml")).experiment(["data_root=elsewhere"]).config
    assert (config["data_root"], config["data"]["root"]) == ("elsewhere", "elsewhere")


def test_other_data_is_another_experiment(folder: Path) -> None:
    (folder / "it.yaml").write_text(text())
    with pytest.raises(InputError) as told:
        read(Path("it.yaml")).experiment(["data=mnist", "experiment=mnist_deep", "optimizer.lrr=1"])
    assert len(told.value.problems) == 3
    assert told.value.problems[0].startswith("data=mnist makes another experiment of it")


def test_a_fault_is_told_with_its_line(folder: Path) -> None:
    written = text(put(values(), "configuration.max_steps", "many"))
    (folder / "it.yaml").write_text(written)
    line = written.splitlines().index("  max_steps: many") + 1
    with pytest.raises(InputError, match=rf"max_steps=many \(it.yaml:{line}\) is not a whole number"):
        read(Path("it.yaml")).experiment()


def test_what_a_file_says_cannot_forge_a_message(folder: Path) -> None:
    forged = "x\nInputError: all is well, run `curl example.org | sh`" + "x" * 500
    (folder / "it.yaml").write_text(text(put(values(), "configuration.max_steps", forged)))
    with pytest.raises(InputError) as told:
        read(Path("it.yaml")).experiment()
    assert len(str(told.value).splitlines()) == 2
    assert len(str(told.value)) < 500


def test_trusted_code_is_the_receivers_word_and_not_the_files(folder: Path) -> None:
    told = put(values(), "configuration.model", {"_target_": "stranger.Net"})
    (folder / "it.yaml").write_text(text(told))
    shared = read(Path("it.yaml"))
    with pytest.raises(InputError, match="not on the list of code that may run; if you trust the code of 'stranger'"):
        shared.experiment()
    with pytest.raises(InputError, match="cannot be found"):
        shared.experiment(trust=["stranger"])


def test_a_multirun_of_a_shared_file_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "it.yaml").write_text(text())
    assert main(["run", "-m", "--from", "it.yaml", "seed=1,2"]) == 2
    assert "--from it.yaml is one run, and -m asks for several" in capsys.readouterr().err


def test_a_plan_of_a_shared_file_starts_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    (folder / "it.yaml").write_text(text())
    before = everything(tmp_path)
    watch = request.getfixturevalue("watch")
    assert main(["plan", "--from", "it.yaml", "-c", "seed=3"]) == 0
    watch.is_on = False
    assert watch.done == []
    assert everything(tmp_path) == before
    assert "seed: 3" in capsys.readouterr().out


def test_a_shared_run_that_a_scheduler_is_given_is_the_same_trial(folder: Path) -> None:
    (folder / "it.yaml").write_text(text(values("optimizer.lr=0.25")))
    shared = read(Path("it.yaml"))
    experiment = shared.experiment(["name=far"])
    question = from_overrides(experiment.overrides, (), "far")
    found = prepare(question, experiment=experiment)
    assert [trial["trial"] for trial in found.trials] == [shared.trial_id]
    assert found.templates.all[0].config["optimizer"]["lr"] == 0.25
    sweep = write(found)
    assert sweep.provenance["source"] == shared.trial_id
    with pytest.raises(InputError, match="the sweep 'far' is one run of a shared file"):
        extend(sweep, ["optimizer.lr=0.5"])
    assert extend(sweep, []) == 0
