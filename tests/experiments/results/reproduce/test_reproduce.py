"""`lathe reproduce` in a real clone with real commands: runs again with their own code, which has changed since."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from experiments.run.metrics import read_series
from tests.support.clones import Clone, clone, commit, git
from tests.support.variants import only_long
from tests.support.waiting import PATIENCE_S, wait_until

MODEL = '''"""An uncommitted model."""

from modules.model.softmax import Softmax


class Mine(Softmax):
    is_component = True
    scale = 1.0

    def forward(self, inputs):
        return self.scale * super().forward(inputs)
'''
OPTION = """_target_: modules.model.my_model.Mine
num_features: ${data.num_features}
num_classes: ${data.num_classes}
"""
pytestmark = pytest.mark.slow
SMALL = ("max_steps=20", "log_every_steps=2", "eval_every_steps=10", "batch_size_global=32")
LONG = ("max_steps=2000", "log_every_steps=1", "eval_every_steps=2000")


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with a short and a long run from a dirty tree, whose code was edited, committed and removed afterwards."""
    dirty = clone(tmp_path_factory.mktemp("dirty"))
    root = dirty.root
    (root / "modules/model/my_model.py").write_text(MODEL)
    (root / "conf/model/my_model.yaml").write_text(OPTION)
    objective = root / "modules/objective/cross_entropy.py"
    objective.write_text(objective.read_text() + "\n# edited, not committed\n")
    dirty.lathe("run", "model=my_model", *SMALL, "tracking=off")
    dirty.lathe("run", "model=softmax", *LONG, "tracking=off")
    # Everything changes.
    (root / "conf/model/my_model.yaml").unlink()
    (root / "modules/model/my_model.py").write_text(MODEL.replace("1.0", "3.0"))
    git(root, "checkout", "-q", "modules/objective/cross_entropy.py")
    softmax = root / "modules/model/softmax.py"
    softmax.write_text(softmax.read_text().replace("return ", "return 2 * "))
    commit(root, "all is different")
    (root / "modules/model/my_model.py").unlink()
    return dirty


@pytest.fixture
def there(dirty: Clone) -> Iterator[Clone]:
    """The same clone; after a test its new runs and worktrees are removed."""
    before = set(dirty.runs())
    yield dirty
    assert len(dirty.worktrees()) == 1
    for folder in {*dirty.runs()} - before:
        shutil.rmtree(folder)


def again(there: Clone) -> Path:
    """The newest run."""
    return there.runs()[-1]


def verdict(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "verdict.yaml").read_text())
    return content


def copied(there: Clone, **changes: Any) -> str:
    """A copy of the run with other provenance."""
    folder = there.runs()[0]
    copy = folder.with_name(f"c0ffee{len(there.runs())}")
    shutil.copytree(folder, copy)
    provenance = yaml.safe_load((copy / "provenance.yaml").read_text())
    (copy / "provenance.yaml").write_text(yaml.safe_dump(provenance | changes))
    return copy.name


def test_a_run_from_a_dirty_tree_is_reproduced_bit_for_bit_after_its_code_changed(there: Clone) -> None:
    first = there.runs()[0]
    assert "my_model" in there.lathe("run", "model=my_model", *SMALL, code=2)  # the option is gone
    printed = there.lathe("reproduce", first.name)
    assert "restored at commit" in printed
    assert "with its uncommitted changes; sha256" in printed
    assert "environment and hardware are those of the run" in printed
    assert again(there) != first
    assert read_series(again(there)) == read_series(first)
    series = read_series(first)
    points = sum(1 if name.startswith("delivered/") else len(values) for name, values in series.items())
    assert points > 20
    assert f"identical: 9 metrics, {points} points, bit for bit" in printed
    assert verdict(again(there))["verdict"] == "identical"
    assert not (there.root / "modules/model/my_model.py").exists()
    provenance = [yaml.safe_load((folder / "provenance.yaml").read_text()) for folder in (first, again(there))]
    assert provenance[1]["reproduces"]["run_key"] == provenance[0]["run_key"] != provenance[1]["run_key"]
    assert provenance[1]["code"][0]["sha256"] == provenance[0]["code"][0]["sha256"]


def test_only_the_requested_steps_are_run_and_compared(there: Clone) -> None:
    printed = there.lathe("reproduce", there.runs()[1].name, "--steps", "5")
    assert verdict(again(there))["verdict"] == "identical"
    assert verdict(again(there))["compared_to"] == 5
    assert "identical: 2 metrics, 10 points" in printed
    outcome = yaml.safe_load((again(there) / "outcome.json").read_text())
    assert outcome["status"] == "interrupted"
    assert outcome["reason"] == "as requested, after step 5, which is saved"
    assert max(step for points in read_series(again(there)).values() for step, _ in points) == 5
    assert "stopping:" not in printed
    printed = there.lathe("reproduce", there.runs()[0].name, "--steps", "3")  # it has a point every other step
    assert verdict(again(there))["verdict"] == "identical", printed


def test_another_topology_is_compared_with_a_reported_tolerance(there: Clone) -> None:
    first = there.runs()[0]
    printed = there.lathe("reproduce", first.name, "parallel=data", "hardware.devices_per_node=2")
    assert "it runs with parallel=data hardware.devices_per_node=2, so it is compared with a tolerance" in printed
    assert "compared with a tolerance: hardware.devices_per_node is 2 and was 1" in printed
    content = verdict(again(there))
    assert content["verdict"] in ("within tolerance", "identical")
    assert (content["tolerance"], content["judged_to"]) == (1e-5, 20)
    assert content["largest"] < 1e-5


def test_a_different_environment_is_reported_before_anything_runs(there: Clone) -> None:
    packages = yaml.safe_load((there.runs()[0] / "provenance.yaml").read_text())["packages"]
    name = copied(there, packages=packages | {"numpy": "1.0.0", "left-behind": "2.0"}, python="3.8.1")
    printed = there.lathe("reproduce", name, "--steps", "2")
    lines = [line for line in printed.splitlines() if line.startswith("environment: ")]
    assert lines[0].endswith("; the run had 3.8.1")
    assert f"environment: numpy is {packages['numpy']}; the run had 1.0.0" in lines
    assert "environment: left-behind is not installed; the run had 2.0" in lines
    assert len(lines) == 3
    assert printed.index(lines[-1]) < printed.index(f"run {again(there).name}")
    assert "environment: left-behind is not installed; the run had 2.0" in verdict(again(there))["problems"]


def test_a_missing_commit_is_reported_with_a_fix(there: Clone) -> None:
    code = yaml.safe_load((there.runs()[0] / "provenance.yaml").read_text())["code"]
    name = copied(there, code=[code[0] | {"git_sha": "0123456789" * 4}])
    printed = there.lathe("reproduce", name, code=2)
    assert (
        f"commit {'0123456789' * 4} of 'checkout' is not in {there.root}; `git -C {there.root} fetch --all`" in printed
    )
    assert len(there.runs()) == 3


def test_code_that_was_changed_after_freezing_is_refused(there: Clone) -> None:
    name = copied(there)
    patch = there.runs()[-1] / "code" / "checkout.patch"
    patch.write_text(patch.read_text().replace("edited, not committed", "edited once more yes"))
    printed = there.lathe("reproduce", name, code=2)
    assert "the uncommitted changes of 'checkout' in " in printed
    assert "the run was frozen with" in printed


def test_check_compares_with_an_existing_run_and_runs_nothing(there: Clone) -> None:
    first, name = there.runs()[0], copied(there)
    assert "identical: 9 metrics" in there.lathe("reproduce", first.name, "--check", name)
    journal = there.runs()[-1] / "attempts" / "1" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if '"step":6,' in line and "train/loss_nats" in line)
    lines[at] = lines[at].replace('"train/loss_nats":', '"train/loss_nats":1')
    journal.write_text("".join(lines))
    printed = there.lathe("reproduce", first.name, "--check", name, code=1)
    assert "different: the largest relative distance is" in printed
    assert "they differ from step 6" in printed
    assert "identical" in there.lathe("reproduce", first.name, "--check", name, "--steps", "5")
    assert len(there.runs()) == 3


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=only_long), signal.SIGHUP],
    ids=["ctrl_c", "closed_terminal"],
)
def test_an_interrupted_reproduction_saves_and_removes_its_worktree(there: Clone, number: int) -> None:
    command = there.command("reproduce", there.runs()[1].name)
    scratch = there.home / "tmp"
    scratch.mkdir(exist_ok=True)
    environment = there.environment_variables() | {"TMPDIR": str(scratch)}
    before = len(there.runs())
    running = subprocess.Popen(command, cwd=there.home, env=environment, text=True, stdout=subprocess.PIPE)
    try:
        wait_until(lambda: len(there.runs()) > before and _has_step(again(there)))
        assert len(there.worktrees()) == 2
        running.send_signal(number)
        printed, _ = running.communicate(timeout=PATIENCE_S)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 1
    assert "interrupted: the largest relative distance is 0; it was interrupted after step" in printed
    assert verdict(again(there))["verdict"] == "interrupted"
    assert len(there.worktrees()) == 1
    assert list(scratch.glob("lathe-*")) == []


def test_the_training_saves_and_stops_when_its_command_is_killed(there: Clone) -> None:
    scratch = there.home / "tmp"
    scratch.mkdir(exist_ok=True)
    before, command = len(there.runs()), there.command("reproduce", there.runs()[1].name)
    environment = there.environment_variables() | {"TMPDIR": str(scratch)}
    running = subprocess.Popen(command, cwd=there.home, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(there.runs()) > before and _has_step(again(there)))
    finally:
        running.kill()
        running.wait()
    wait_until(lambda: (again(there) / "outcome.json").exists())
    assert yaml.safe_load((again(there) / "outcome.json").read_text())["status"] == "interrupted"
    # What a killed process could not remove, git forgets when the folder has gone.
    shutil.rmtree(scratch)
    git(there.root, "worktree", "prune")


def _has_step(folder: Path) -> bool:
    journal = folder / "attempts" / "1" / "journal.jsonl"
    return journal.exists() and '"step":3,' in journal.read_text()


@pytest.fixture
def photos(there: Clone, tmp_path: Path) -> Path:
    """A data folder with two classes and one image per split, and a run on it."""
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (200, 10 * len(name), 3)).save(tmp_path / "photos" / split / name / "1.png")
    shape = ("data.image_shape=[3,8,8]", "data.num_features=192", "data.image_size=8", "data.resize_size=8")
    data = ("data=image_folder", f"data.root={tmp_path}", "data.folder=photos", "data.num_classes=2", *shape)
    there.lathe(
        "run", "model=softmax", *data, "max_steps=2", "batch_size_global=2", "eval_every_steps=2", "tracking=off"
    )
    return tmp_path / "photos"


def test_changed_data_is_reported_before_and_after_the_run(there: Clone, photos: Path) -> None:
    name = again(there).name
    for path in photos.glob("train/*/1.png"):
        Image.new("RGB", (8, 8), (3, 3, 200)).save(path)
    (photos / "test" / "ant" / "2.png").write_bytes((photos / "test" / "ant" / "1.png").read_bytes())
    printed = there.lathe("reproduce", name, code=1)
    before = f"data: {photos} has changed: 7 files, and the run had 6"
    assert printed.index(before) < printed.index(f"run {again(there).name}")
    assert "data: the split 'train' has the digest" in printed
    assert "data: the split 'val' has" not in printed
    assert verdict(again(there))["verdict"] == "different"
