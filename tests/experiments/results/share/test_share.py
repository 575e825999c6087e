from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from experiments.cli.main import main
from experiments.core.errors import InputError
from experiments.results.share.share import MAX_POINTS, thin_out
from experiments.results.share.shared_file import read
from experiments.run.checkpoint import Checkpoints
from experiments.run.metrics import read_series
from experiments.trial.record import record_trial
from experiments.trial.resume import compose_changes
from experiments.trial.trial import Trial, find_trial
from tests.support.waiting import PATIENCE_S

# Names and secrets of an author, split here so that this file does not hold them: a search finds only what a run copied.
USER, NAME, HOST = "zaphod" + "b42", "Zaphod" + " Beeble" + "brox", "gold" + "7x"
SECRET, PASSWORD, KEY = "swordfish" + "-of-42", "no-tea" + "-at-all9", "towel" + "0123456789abcdef"
PLANTED = (USER, NAME, HOST, SECRET, PASSWORD, KEY, "magra" + "thea", "mice" + "-lab")
NET = "from modules.model.lenet import LeNet\n\n\nclass Net(LeNet):\n    pass\n"


@dataclass
class Author:
    """The author's folder with a checkout, a run made there, and the author's environment."""

    folder: Path
    environment: dict[str, str]
    trial: Trial

    def lathe(self, *args: str) -> subprocess.CompletedProcess[str]:
        return lathe(self.folder, self.environment, *args)


def lathe(folder: Path, environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "experiments.cli", *args]
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip


def git(folder: Path, *args: str) -> None:
    identity = ["-c", f"user.name={NAME}", "-c", f"user.email={USER}@example.org"]
    subprocess.run(["git", *identity, "-C", str(folder), *args], check=True, capture_output=True)


def checkout(folder: Path) -> None:
    """A repository with a package of one model, and with uncommitted changes."""
    package = folder / "heartofgold"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "net.py").write_text(NET)
    git(folder, "init", "-q", "-b", f"{USER}/idea")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    (package / "net.py").write_text(NET + "\n\nDRIVE = 'improbable'\n")
    (package / "extra.py").write_text("ANSWER = 42\n")
    (package / "keys.py").write_text(f"api_key = '{KEY}'\n")
    (folder / ".env").write_text(f"PASSWORD={PASSWORD}\n")


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Author:
    """A run of 20 steps whose author's names are everywhere that a run can hold them."""
    home = tmp_path_factory.mktemp("homes") / USER
    folder = home / f"{USER}-ship"
    checkout(folder)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LATHE_", "MLFLOW_"))
    }
    environment |= {
        "USER": USER, "LOGNAME": USER, "HOME": str(home), "HOSTNAME": HOST, "SLURMD_NODENAME": f"{HOST}.magra" + "thea.org",
        "TEA_PASSWORD": SECRET, "MLFLOW_TRACKING_URI": "http://mice" + "-lab:5000", "LATHE_DATA": str(home / "data"),
    }  # fmt: skip
    note = f"By {USER} ({USER}@example.org) on {HOST}; see {home}/log.txt and ~/x/y, the password is {SECRET}."
    done = lathe(
        folder, environment, "run", "--trust", "heartofgold", "model._target_=heartofgold.net.Net", "max_steps=20",
        "eval_every_steps=10", "log_every_steps=2", "checkpoint.best_metric=train/learning_rate", "tracking=off",
        f"name={USER}/best", f"description='{note}'", f"+tags.{USER}='{home}/here'", f"+tags.where={HOST}",
        f"runs_dir={home}/runs", f"data_root={home}/data", "checkpoint.best_metric=val/loss_nats",
        "checkpoint.best_mode=max",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trial = Trial(next((home / "runs").glob("single/*/trial.yaml")).parent)
    provenance = trial.provenance
    # Without Lathe's own checkout: during development it may hold anything.
    provenance["code"] = [entry for entry in provenance["code"] if entry["name"] == folder.name]
    (trial.folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
    return Author(folder, environment, Trial(trial.folder))


@pytest.fixture(scope="module")
def files(author: Author, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shared files it.yaml and it.tar.gz of that run."""
    folder = tmp_path_factory.mktemp("shared")
    for name, flags in (("it.yaml", []), ("it.tar.gz", ["--bundle"])):
        done = author.lathe(
            "share", author.trial.id, "-o", str(folder / name), "--runs-dir", str(author.trial.runs_dir), *flags
        )
        assert done.returncode == 0, done.stderr
        assert f"{name}: " in done.stdout
    return folder


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every name and content in a file, also inside of archives."""
    content = path.read_bytes()
    yield from unpacked(path.name, content)


def unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if name.endswith(".tar.gz"):
        tar = gzip.decompress(content)
        yield f"{name} unpacked", tar
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for info in archive:
                file = archive.extractfile(info)
                yield from unpacked(info.name, file.read() if file else b"")


@pytest.mark.parametrize("name", ["it.yaml", "it.tar.gz"])
def test_a_shared_file_holds_nothing_of_its_author(name: str, files: Path, author: Author) -> None:
    held = dict(contents(files / name))
    private = [*PLANTED, str(author.trial.folder), str(author.folder)]
    for name, content in held.items():
        for text in private:
            assert text.lower().encode() not in content.lower(), f"{text} is in {name}"
        assert not re.search(rb"(?<![\w/.])(/home|/tmp|/root|/Users)/\w", content), name
        if content.isascii() and len(socket.gethostname()) > 2:
            assert not re.search(rb"(?<![\w-])%b(?![\w-])" % socket.gethostname().encode(), content), name
    assert ("heartofgold/extra.py" in held) == ("it.tar.gz" in held)
    assert not {"heartofgold/keys.py", ".env"} & held.keys()


def test_the_run_itself_holds_the_names_and_secrets(author: Author) -> None:
    """Otherwise the test above would prove nothing."""
    held = b"".join(path.read_bytes() for path in author.trial.folder.glob("*.yaml"))
    assert [text for text in (USER, HOST, SECRET) if text.encode() not in held] == []


def test_a_shared_file_is_laid_out_for_people(files: Path, author: Author) -> None:
    written = (files / "it.yaml").read_text()
    head, _, body = written.partition("\n\n")
    assert "#   lathe run --from it.yaml --trust heartofgold" in head
    assert re.search(r"^# Result at step 10: test/accuracy_top1 0\.\d+, .*, delivered/val/.*\.$", head, re.MULTILINE)
    keys = re.findall(r"^(\w+):", body, re.MULTILINE)
    assert keys == [
        "lathe_share", "name", "description", "how_to_run", "configuration", "trial_id", "overrides", "code", "environment",
        "data", "seeds", "expected", "bundle",
    ]  # fmt: skip
    assert "  model:\n    _target_: heartofgold.net.Net\n    image_shape: [1, 8, 8]\n" in body
    assert "\n      steps: [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]\n      values: [" in body
    assert max(map(len, written.splitlines())) < 160


def test_a_shared_file_has_the_values_of_the_run(files: Path, author: Author) -> None:
    shared, trial = read(files / "it.yaml"), author.trial
    assert shared.trial_id == trial.id
    assert shared.warnings == []
    assert shared.values["name"] == "[user]-best"
    assert (
        shared.values["description"]
        == "By [user] ([address]) on [host]; see [folder] and [folder], the password is ***."
    )
    assert shared.configuration["tags"] == {"[user]": "[folder]", "where": "[host]"}
    assert {key: shared.configuration[key] for key in COMPARED} == {key: trial.config[key] for key in COMPARED}
    assert shared.record().streams == read_series(trial.folder)
    assert shared.record().data["splits"] == record_trial(trial).data["splits"]
    assert shared.values["overrides"][:2] == ["model._target_=heartofgold.net.Net", "max_steps=20"]
    assert not [text for text in shared.values["overrides"] if re.match(r"runs_dir|data_root|tracking", text)]


COMPARED = (
    "seed",
    "max_steps",
    "model",
    "data",
    "objective",
    "evaluator",
    "optimizer",
    "schedule",
    "parallel",
    "checkpoint",
)


def test_a_bundle_has_the_code_and_the_best_weights(files: Path, author: Author) -> None:
    held = dict(contents(files / "it.tar.gz"))
    best, latest = (Checkpoints(author.trial.folder, 1).best(), Checkpoints(author.trial.folder, 1).latest())
    assert best is not None
    assert latest is not None
    assert best.step < latest.step
    assert held["weights/model.safetensors"] == (best.folder / "model.safetensors").read_bytes()
    (entry,) = author.trial.provenance["code"]
    (shared,) = read(files / "it.tar.gz").values["code"]
    assert (shared["sha256"], shared["git_sha"]) == (entry["sha256"], entry["git_sha"])
    assert b"branch:" not in held["it.tar.gz unpacked"]
    assert b"+DRIVE = 'improbable'" in held[f"code/{shared['diff']}"]


def test_another_person_gets_the_same_metrics_bit_for_bit(
    files: Path, author: Author, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "LATHE_RUNS": str(tmp_path / "runs"), "HOME": str(tmp_path)}
    args = ["run", "--from", str(files / "it.yaml"), "--trust", "heartofgold", "tracking=off"]
    done = lathe(author.folder, environment, *args)
    assert done.returncode == 0, done.stderr
    trial = find_trial(author.trial.id, tmp_path / "runs")
    assert trial.id == author.trial.id
    assert read_series(trial.folder) == read_series(author.trial.folder)
    assert trial.provenance["source"] == author.trial.id
    monkeypatch.syspath_prepend(str(author.folder))
    assert compose_changes(trial, ["batch_size_eval=100"], ["heartofgold"]) == {"batch_size_eval": 100}
    with pytest.raises(InputError, match="a resume changes only"):
        compose_changes(trial, ["optimizer=sgd"])


def test_another_person_is_warned_of_different_code(files: Path, author: Author, tmp_path: Path) -> None:
    checkout(tmp_path / "ship")
    (tmp_path / "ship" / "heartofgold" / "extra.py").write_text("ANSWER = 43\n")
    environment = {**os.environ, "LATHE_RUNS": str(tmp_path / "runs")}
    args = ["run", "--from", str(files / "it.tar.gz"), "--trust", "heartofgold", "tracking=off", "max_steps=1"]
    done = lathe(tmp_path / "ship", environment, *args)
    assert done.returncode == 0, done.stderr
    commit = author.trial.provenance["code"][0]["git_sha"][:12]
    warning = f"warning: the code of 'user-ship' here differs from the shared code (commit {commit}, with changes)"
    assert warning in done.stdout.replace("\n", " ")


def test_code_in_a_shared_file_is_not_trusted(
    files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--from", str(files / "it.tar.gz")]) == 2
    assert "if you trust the code of 'heartofgold', add `--trust heartofgold`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_two_overrides_send_a_shared_run_to_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: Path
) -> None:
    written = (files / "it.yaml").read_text().replace("heartofgold.net.Net", "modules.model.lenet.LeNet")
    (tmp_path / "it.yaml").write_text(written)
    monkeypatch.chdir(tmp_path)
    words = ["hardware=cpu_partition", "launcher=slurm", "launcher.dry_run=true", "name=far"]
    assert main(["run", "--from", "it.yaml", *words]) == 0
    shown = capsys.readouterr()
    assert "#SBATCH --job-name=far\n" in shown.out
    assert "1 trials, 1 tasks of 1 nodes" in shown.err


@pytest.mark.parametrize("count", [0, 1, 2, 199, 200, 201, 399, 5000])
def test_thinning_keeps_the_first_and_last_point_and_even_spacing(count: int) -> None:
    points = [(step, step / 7) for step in range(3, 3 + count)]
    thin = thin_out(points)
    assert len(thin["steps"]) == min(count, MAX_POINTS)
    assert list(zip(thin["steps"], thin["values"], strict=True)) == [
        point for point in points if point[0] in thin["steps"]
    ]
    assert thin["steps"][:1] + thin["steps"][-1:] == [step for step, _ in points[:1] + points[-1:]]
    gaps = [after - before for before, after in zip(thin["steps"], thin["steps"][1:], strict=False)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "here"], "-o here is a folder; write -o here/NAME.yaml"),
        (["-o", "there.yaml"], "-o there.yaml exists already; choose another name, or add --force"),
        (["-o", "no/x.yaml"], "-o no/x.yaml: there is no folder no; create it first"),
        (["-o", "x.yaml", "--bundle"], "-o x.yaml: --bundle writes an archive; write -o x.tar.gz"),
        (["-o", "x.tar.gz"], "-o x.tar.gz: only --bundle writes an archive; add it, or write -o NAME.yaml"),
    ],
)
def test_an_unsuitable_output_name_is_reported(
    args: list[str], message: str, author: Author, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "there.yaml").write_text("mine\n")
    assert main(["share", str(author.trial.folder), *args]) == 2
    assert capsys.readouterr().err == f"InputError: the command has a problem:\n  - {message}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there.yaml"]
    assert (tmp_path / "there.yaml").read_text() == "mine\n"


def test_force_overwrites_a_file(author: Author, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.yaml").write_text("mine\n")
    assert main(["share", str(author.trial.folder), "-o", str(tmp_path / "there.yaml"), "--force"]) == 0
    assert read(tmp_path / "there.yaml").trial_id == author.trial.id
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]


@pytest.fixture
def copied(author: Author, tmp_path: Path) -> Trial:
    """A copy of the run that a test may change."""
    shutil.copytree(author.trial.folder, tmp_path / "runs" / "single" / "it")
    return Trial(tmp_path / "runs" / "single" / "it")


def replace_in(trial: Trial, file: str, before: str, after: str) -> None:
    written = (trial.folder / file).read_text()
    assert before in written
    (trial.folder / file).write_text(written.replace(before, after, 1))


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (
            "label_smoothing_prob: 0.0",
            "path: /scratch/x/y",
            "objective.path=/scratch/x/y holds a folder of this machine",
        ),
        ("label_smoothing_prob: 0.0", f"by: {USER}_set", f"objective.by={USER}_set holds a user's name"),
        ("label_smoothing_prob: 0.0", f"key: ghp_{'a1' * 12}", "objective.key=*** holds a secret"),
        ("heartofgold.net.Net", f"{USER}.net.Net", f"model._target_={USER}.net.Net holds a user's name"),
    ],
)
def test_a_private_value_that_determines_the_result_is_refused_and_not_redacted(
    before: str, after: str, problem: str, copied: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("USER", USER)
    replace_in(copied, "trial.yaml", before, after)
    assert main(["share", str(copied.folder), "-o", str(tmp_path / "it.yaml")]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"InputError: the shared file has a problem:\n  - {problem}, which must not be shared;")
    assert not (tmp_path / "it.yaml").exists()


def test_a_private_name_of_a_metric_is_refused(
    copied: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USER", USER)
    journal = copied.folder / "attempts" / "1" / "journal.jsonl"
    journal.write_text(journal.read_text().replace("val/accuracy_top1", f"val/{USER}_score"))
    assert main(["share", str(copied.folder), "-o", str(tmp_path / "it.yaml")]) == 2
    problem = "the line '# Result at step 10: test/accuracy_top1 .+' would hold a user's name"
    assert re.search(problem, capsys.readouterr().err)
    assert not (tmp_path / "it.yaml").exists()


def test_a_private_file_name_is_not_in_the_content(
    copied: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", USER)
    assert main(["share", str(copied.folder), "-o", str(tmp_path / f"of {USER}.yaml")]) == 0
    written = (tmp_path / f"of {USER}.yaml").read_text()
    assert "- lathe run --from FILE --trust heartofgold\n" in written
    assert USER not in written


def test_private_uncommitted_code_is_refused(
    copied: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USER", USER)
    patch = copied.folder / "code" / copied.provenance["code"][0]["diff"]
    patch.write_bytes(patch.read_bytes().replace(b"improbable", USER.encode()))
    assert main(["share", str(copied.folder), "-o", str(tmp_path / "it.tar.gz"), "--bundle"]) == 2
    shown = capsys.readouterr().err
    assert re.search(r"the uncommitted file heartofgold/net.py holds a user's name in line \d+;", shown)
    assert not (tmp_path / "it.tar.gz").exists()


def plant(trial: Trial, name: str, content: bytes) -> None:
    """Add an untracked file to the snapshot of the run."""
    packed = trial.folder / "code" / trial.provenance["code"][0]["untracked"]
    buffer = io.BytesIO(gzip.decompress(packed.read_bytes()))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    packed.write_bytes(gzip.compress(buffer.getvalue()))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (f"# caf\xe9\nAUTHOR = '{USER}'\n".encode("latin1"), "holds a user's name in line 2"),
        (f"USER={USER}\n".encode("utf-16"), "is binary"),
        (b"\x89PNG\0", "is binary"),
        (gzip.compress(USER.encode(), mtime=0), "is binary"),
    ],
    ids=["latin1", "utf16", "picture", "packed"],
)
def test_an_untracked_file_that_is_private_or_binary_is_refused(
    content: bytes, problem: str, copied: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("USER", USER)
    plant(copied, "a.bin", content)
    assert main(["share", str(copied.folder), "-o", str(tmp_path / "it.tar.gz"), "--bundle"]) == 2
    assert f"the uncommitted file a.bin {problem}" in capsys.readouterr().err
    assert not (tmp_path / "it.tar.gz").exists()


def test_a_binary_file_in_the_patch_of_git_is_refused(
    copied: Trial, author: Author, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "ship"
    repository.mkdir()
    (repository / "a.png").write_bytes(b"\x89PNG\0")
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "first")
    (repository / "a.png").write_bytes(b"\x89PNG\0" + USER.encode())
    patch = subprocess.run(["git", "-C", str(repository), "diff", "--binary"], check=True, capture_output=True).stdout
    (copied.folder / "code" / copied.provenance["code"][0]["diff"]).write_bytes(patch)
    assert main(["share", str(copied.folder), "-o", str(tmp_path / "it.tar.gz"), "--bundle"]) == 2
    assert "the uncommitted file a.png is binary, so that Lathe cannot search it" in capsys.readouterr().err
    assert not (tmp_path / "it.tar.gz").exists()


def test_names_of_hardware_and_configuration_folders_are_not_shared(copied: Trial, tmp_path: Path) -> None:
    provenance = copied.provenance
    provenance["overrides"] += ["hardware=acme_secretlab_h100", "hardware.cpu_threads=1"]
    provenance["config_dirs"] = ["/x/acme_secretlab"]
    provenance["code"].append({"name": "acme_secretlab", "sha256": "0" * 64, "git_sha": None})
    (copied.folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
    assert main(["share", str(copied.folder), "-o", str(tmp_path / "it.yaml")]) == 0
    assert "secretlab" not in (tmp_path / "it.yaml").read_text()
    shared = read(tmp_path / "it.yaml")
    assert [entry["name"] for entry in shared.values["code"]][1:] == ["configurations-1"]
    assert "hardware.cpu_threads=1" in shared.values["overrides"]


def test_a_bundle_of_a_run_without_weights_is_refused(
    copied: Trial, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied.folder / "checkpoints")
    assert main(["share", str(copied.folder), "-o", str(tmp_path / "it.tar.gz"), "--bundle"]) == 2
    assert "run 'it' has no checkpoint to bundle; leave --bundle out" in capsys.readouterr().err


def test_an_unfinished_run_is_shared_with_a_warning(
    copied: Trial, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied.folder / "outcome.json").unlink()
    assert main(["share", str(copied.folder), "-o", str(tmp_path / "it.yaml")]) == 0
    assert "warning: run it is not finished" in capsys.readouterr().out
