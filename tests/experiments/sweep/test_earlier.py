"""A sweep of the same name is continued if it is the same, and trials that have finished elsewhere are not trained again."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli import sweep as command
from experiments.cli.main import main
from experiments.cli.sweep import start
from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.core.errors import InputError
from experiments.sweep import create
from experiments.sweep.create import SweepDraft, extend, prepare, write
from experiments.sweep.earlier.same_name import find_same
from experiments.sweep.spec import read_overrides
from experiments.sweep.status.progress import has_workers
from experiments.sweep.sweep import Sweep
from experiments.trial import trial
from experiments.trial.code_copy import digest_packages
from launchers.local import Local
from tests.support.workers import QUICK, finish_trials, read_entries

LRS = "optimizer.lr=0.01,0.02"


@pytest.fixture(scope="module")
def code_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest_packages((), (), tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, code_sha256: str) -> None:
    """Compose a configuration once in a test, and read no code again; no worker starts, so none is copied either."""
    known: dict[str, Experiment] = {}

    def compose_once(overrides: Sequence[str], **options: Any) -> Experiment:
        key = str((overrides, options))
        if key not in known:
            known[key] = compose(overrides, **options)
        return deepcopy(known[key])

    monkeypatch.setattr(create, "compose", compose_once)
    monkeypatch.setattr(create, "copy_packages", lambda trust, folder: None)
    monkeypatch.setattr(trial, "take_snapshots", lambda *args: [])
    for module in (create, trial):
        monkeypatch.setattr(module, "digest_packages", lambda *args: code_sha256)


def make_draft(runs_dir: Path, *overrides: str, name: str | None = "probe") -> SweepDraft:
    return prepare(read_overrides([*QUICK, "tracking=off", f"runs_dir={runs_dir}", *overrides], name=name))


def test_only_the_same_sweep_goes_on(tmp_path: Path) -> None:
    first = write(make_draft(tmp_path, LRS))
    same = make_draft(tmp_path, LRS, "sweep.description=again", "sweep.reuse=false")
    assert find_same(same, tmp_path) == first
    assert find_same(make_draft(tmp_path, LRS, name="prob"), tmp_path) is None
    for overrides, difference in (
        ([LRS, "sweep.num_seeds=2"], r"sweep\.num_seeds=1 instead of 2; .* `lathe resume \S+ KEY=VALUE` to add values"),
        (["optimizer.lr=0.1"], r"no optimizer\.lr=0\.1, optimizer\.lr=\[0\.01, 0\.02\] instead of null"),
        (
            [LRS, "max_steps=50"],
            r"no max_steps=50; write sweep\.name=OTHER, --new .* `lathe resume \S+` to continue that one",
        ),
    ):
        with pytest.raises(InputError, match=difference):
            find_same(make_draft(tmp_path, *overrides), tmp_path)
    other = write(make_draft(tmp_path, LRS, "max_steps=50"))
    assert other.folder.name == "probe-2"
    assert find_same(make_draft(tmp_path, LRS), tmp_path) == first
    assert find_same(make_draft(tmp_path, LRS, "max_steps=50"), tmp_path) == other


def test_a_name_that_was_made_from_the_keys_is_no_reason_to_refuse(tmp_path: Path) -> None:
    first = write(make_draft(tmp_path, LRS, name=None))
    assert first.name == "lr"
    assert find_same(make_draft(tmp_path, LRS, name=None), tmp_path) == first
    assert find_same(make_draft(tmp_path, "optimizer.lr=0.1,0.2", name=None), tmp_path) is None


@pytest.mark.parametrize(
    ("file", "key", "value", "difference"),
    [
        ("provenance.yaml", "code_sha256", "0" * 64, "which has other code than today;"),
        ("templates.json", "weight_decay", 0.5, r"optimizer\.weight_decay=0\.5 instead of 0\.01;"),
    ],
)
def test_other_code_or_another_configuration_is_another_sweep(
    tmp_path: Path, file: str, key: str, value: object, difference: str
) -> None:
    path = write(make_draft(tmp_path, LRS)).folder / file
    content = (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text())
    (content[0]["config"]["optimizer"] if isinstance(content, list) else content)[key] = value
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    with pytest.raises(InputError, match=difference):
        find_same(make_draft(tmp_path, LRS), tmp_path)


def test_two_starts_at_once_make_one_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Sweep] = []
    monkeypatch.setattr(command, "_start_workers", submitted.append)
    drafts, started = [make_draft(tmp_path, LRS) for _ in range(2)], list[Sweep]()
    threads = [threading.Thread(target=lambda draft=draft: started.append(start(draft))) for draft in drafts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sweep.name for sweep in started] == ["probe", "probe"]
    assert [path.parent.name for path in tmp_path.glob("*/sweep.yaml")] == ["probe"]
    assert start(drafts[0], is_new=True).name == "probe-2"


class Machine(Local):
    """A machine on which the workers in `alive` run."""

    def __init__(self, alive: Sequence[str] = ()) -> None:
        super().__init__()
        self.alive = alive

    def find_lost(self, workers: Sequence[str]) -> dict[str, str]:
        return {worker: "ended" for worker in workers if worker not in self.alive}


def test_a_sweep_whose_workers_run_gets_no_more_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write(make_draft(tmp_path, LRS))
    ledger = sweep.ledger()
    assert not has_workers(sweep, ledger, Machine())
    with ledger.locked():
        ledger.record_submission("host:1", 1)
    assert has_workers(sweep, ledger, Machine())  # it has just been started
    later = time.time() + 30
    monkeypatch.setattr(time, "time", lambda: later)
    assert not has_workers(sweep, ledger, Machine())
    (sweep.folder / "workers" / "w").mkdir()
    assert has_workers(sweep, ledger, Machine(["w"]))
    monkeypatch.setattr(Sweep, "executor", lambda sweep: Machine(["w"]))
    assert start(make_draft(tmp_path, LRS)).folder == sweep.folder
    assert "sweep probe runs already; `lathe status" in capsys.readouterr().out


def test_finished_trials_are_reused_and_the_user_is_told(tmp_path: Path) -> None:
    first = write(make_draft(tmp_path, LRS))
    low, high = finish_trials(first)
    draft = make_draft(
        tmp_path, "optimizer.lr=0.02,0.03", "sweep.metric=val/loss_nats", "sweep.mode=min", name="second"
    )
    assert draft.notes == [
        f"1 of 2 trials was finished before and is reused, run probe/{high.id}; sweep.reuse=false trains all"
    ]
    entries = read_entries(write(draft))
    assert [(entry.state, entry.reused, entry.value) for entry in entries] == [
        ("finished", f"probe/{high.id}", 1.0), ("pending", None, None),
    ]  # fmt: skip
    assert make_draft(tmp_path, LRS, "sweep.reuse=false").notes == []
    (tmp_path / "single" / low.id).mkdir(parents=True)
    (tmp_path / "single" / low.id / "outcome.json").write_text("{")  # damaged, so it does not count
    third, lines = write(make_draft(tmp_path, "optimizer.lr=0.02,0.04", name="third")), list[str]()
    extend(third, ["optimizer.lr=0.01"], say=lines.append)
    assert lines == [
        f"1 of 1 trials was finished before and is reused, run probe/{low.id}; sweep.reuse=false trains all"
    ]


def test_a_finished_trial_that_may_differ_is_trained_again(tmp_path: Path) -> None:
    photos = tmp_path / "data" / "pets"
    for path in (photos / split / kind / "1.png" for split in ("train", "val", "test") for kind in ("cat", "dog")):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    images = ["model=softmax", "data=image_folder", "data.folder=pets", f"data_root={tmp_path / 'data'}"]
    base = (*images, "max_steps=40", "data.image_size=8", "data.resize_size=8", "batch_size_global=2")
    sweep = write(make_draft(tmp_path, *base, LRS, name="photos"))
    finish_trials(sweep)
    other = make_draft(tmp_path, *base, LRS, name="other")
    assert "2 of 2 trials were finished before and are reused" in other.notes[0]
    path = sweep.folder / "provenance.yaml"
    provenance = yaml.safe_load(path.read_text())
    for key, value, reason in (
        ("code_sha256", "0" * 64, "the code has changed since"),
        ("code_sha256", None, "the code has changed since"),
        ("packages", {"torch": "0.1"}, "Python or an installed package has another version"),
    ):
        path.write_text(yaml.safe_dump({**provenance, key: value}))
        draft = make_draft(tmp_path, *base, LRS, name="other")
        assert len(draft.notes) == 1
        assert draft.notes[0].startswith(f"2 of 2 trials were finished before, but not reused: {reason} (photos/")
        assert all(trial["reused"] is None for trial in draft.trials)
    path.write_text(yaml.safe_dump(provenance))
    os.utime(photos / "train" / "cat" / "1.png", (time.time() + 60, time.time() + 60))
    assert "the files of the data may have changed since" in make_draft(tmp_path, *base, LRS, name="other").notes[0]


def test_run_with_reuse_shows_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished = finish_trials(write(make_draft(tmp_path, LRS)))[0]
    base = ["run", *QUICK, "tracking=off", f"runs_dir={tmp_path}"]
    assert main([*base, "optimizer.lr=0.01", "--reuse"]) == 0
    assert f"run {finished.id} has finished with the same configuration, code and data" in capsys.readouterr().out
    assert main([*base, "-m", LRS, "--reuse"]) == 2
    assert "a sweep reuses finished trials anyway" in capsys.readouterr().err
