"""Several trackers of one run: each point once, whatever is killed or removed, and one that fails stops no other."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from experiments.components.instantiate import check_trackers
from experiments.config.compose import compose
from experiments.core.errors import InputError, PlanError
from experiments.plan.plan import make_plan
from experiments.tracking import follow_run, run_sync
from experiments.tracking.run_sync import RunSync, sync_run
from experiments.tracking.store_uri import StoreError
from experiments.tracking.sweep_sync import SweepSync, sync_all
from experiments.tracking.trackers.make_tracker import DEFAULT
from experiments.trial.trial import Trial, trial_id
from modules.callback.files import count_values, make_histograms, make_sound
from tests.support.own_tracker import read_rows
from tests.support.recorded_sweeps import make_swept, run_trial
from tests.support.stores import (
    log_steps,
    make_expected_metrics,
    make_run,
    read_metrics,
    read_status,
    start_attempt,
    write_outcome,
)

TRUST = ("tests",)
NODES = {
    **DEFAULT,
    "csv": {"_target_": "tests.support.own_tracker.CsvTracker"},
    "table": {"_target_": "experiments.tracking.trackers.csv_table.CsvTable"},
    "failing": {"_target_": "tests.support.own_tracker.FailingTracker"},
    "tensorboard": {"_target_": "experiments.tracking.trackers.tensorboard.TensorBoard"},
    "wandb": {"_target_": "experiments.tracking.trackers.wandb.Wandb", "project": "probe"},
}
has_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="tensorboard is not installed: pip install 'lathe-dl[tensorboard]'",
)
Reader = Callable[[Path], list[tuple[str, int, float]]]


def track(*names: str) -> dict[str, Any]:
    trackers = {name: dict(NODES[name]) for name in names}
    return {"store": None, "experiment": "lathe", "sync": "live", "log_model": False, "trackers": trackers}


def read_table(folder: Path) -> list[tuple[str, int, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return sorted((row["metric"], int(row["step"]), float(row["value"])) for row in csv.DictReader(file))


def read_events(folder: Path) -> Iterator[Any]:
    """The values of the event file, read as TensorBoard reads it, with their steps."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    (path,) = (folder / "tensorboard").iterdir()
    for record in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(record)
        yield from ((event.step, value) for value in event.summary.value)


def read_tensorboard(folder: Path) -> list[tuple[str, int, float]]:
    return sorted(
        (value.tag, step, value.simple_value) for step, value in read_events(folder) if value.HasField("simple_value")
    )


FILE_TRACKERS = pytest.mark.parametrize(
    ("name", "read"), [("table", read_table), pytest.param("tensorboard", read_tensorboard, marks=has_tensorboard)]
)


@FILE_TRACKERS
def test_each_point_is_there_once_after_a_kill_a_resume_and_a_lost_progress_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: Reader
) -> None:
    trial = make_run(tmp_path, tracking=track(name))
    monkeypatch.setattr(run_sync, "_BLOCK_BYTES", 500)
    real, calls = RunSync._send, iter(range(100))

    def killed_at_the_fourth_block(*args: Any) -> int:
        done = real(*args)
        if next(calls) == 3:
            raise KeyboardInterrupt  # after the tracker has the block, before the offset is saved
        return done

    with start_attempt(trial) as journal:
        log_steps(journal, range(30))
    with monkeypatch.context() as patch:
        patch.setattr(RunSync, "_send", killed_at_the_fourth_block)
        with pytest.raises(KeyboardInterrupt):
            sync_run(trial, TRUST)
    assert 0 < len(read(trial.folder)) < 60
    folder = trial.folder / "tensorboard"  # the killed process did not finish a record
    path = next(folder.iterdir()) if name == "tensorboard" else trial.folder / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-7])
    sync_run(trial, TRUST)
    with start_attempt(trial, 2, step=20) as journal:  # a resume repeats steps
        log_steps(journal, range(20, 35), offset=0.25)
    (trial.folder / f"sync_{name}.json").unlink()
    sync_run(trial, TRUST)
    expected = make_expected_metrics(range(30))
    expected += [("train/time_s", step, 0.5) for step in range(30, 35)]
    expected += [("train/loss_nats", step, step + 0.25) for step in range(30, 35)]
    assert read(trial.folder) == sorted(expected)
    assert sync_run(trial, TRUST).points == 0


def read_wandb(folder: Path) -> list[tuple[str, int, float]]:
    """The points of all offline runs, whose files are logs of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    points, header, block = [], 7, 1 << 15
    for path in (folder / "wandb").glob("offline-run-*/*.wandb"):
        content, position, record = path.read_bytes(), header, b""
        while position + header < len(content):
            _, size, kind = struct.unpack_from("<IHB", content, position)
            position += header + size
            record = (b"" if kind in (1, 2) else record) + content[position - size : position]
            if kind in (1, 4):  # whole, or its last part
                items = Record.FromString(record).history.item
                values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
                points += [(name, values["step"], value) for name, value in values.items() if "/" in name]
            if block - position % block < header:
                position += block - position % block
    return sorted(points)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is an extra: pip install 'lathe-dl[wandb]'"
)
def test_the_offline_mirror_of_wandb_continues_after_a_resume_and_begins_again_after_a_kill(tmp_path: Path) -> None:
    trial = make_run(tmp_path, tracking=track("wandb"))
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
        journal.state("interrupted", step=3, attempt=1)
    write_outcome(trial, "interrupted")
    page = sync_run(Trial(trial.folder)).pages["wandb"]
    assert page == f"wandb sync {trial.folder}/wandb/offline-run-*"
    assert sync_run(Trial(trial.folder)).points == 0
    assert read_wandb(trial.folder) == make_expected_metrics(range(3))
    with start_attempt(trial, 2, step=2) as journal:
        log_steps(journal, range(2, 5))
        journal.state("finished", step=5, attempt=2)
    write_outcome(trial, number=2)
    sync_run(Trial(trial.folder))
    assert read_wandb(trial.folder) == make_expected_metrics(range(5))
    assert {path.name.split("-")[-1] for path in (trial.folder / "wandb").glob("offline-run-*")} == {"a1b2c3"}
    (trial.folder / "wandb" / "complete").unlink()  # as a killed process leaves it
    assert sync_run(Trial(trial.folder)).points == 10
    assert read_wandb(trial.folder) == make_expected_metrics(range(5))


@has_tensorboard
def test_tensorboard_gets_a_removed_file_again_and_shows_the_configuration_and_images(tmp_path: Path) -> None:
    trial = make_run(tmp_path, tracking=track("tensorboard"))
    (samples := trial.folder / "attempts" / "1" / "samples").mkdir(parents=True)
    Image.new("RGB", (5, 3)).save(picture := io.BytesIO(), "png")
    (samples / "step_200.png").write_bytes(picture.getvalue())
    (samples / "notes.txt").write_text("no image")
    made = trial.folder / "media" / "samples" / "step_00000007"
    made.mkdir(parents=True)
    (made / "drawn.png").write_bytes(picture.getvalue())
    (made / "said.txt").write_text("ein Hund")
    (made / "heard.wav").write_bytes(make_sound(torch.tensor([0.0, 1.0, -1.0]), 8000))
    (made / "histograms.json").write_bytes(
        make_histograms({"weights/a": count_values(torch.tensor([0.0, 1.0, 1.0]), 2)})
    )
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
        journal.artifact("attempts/1/samples")
        journal.artifact("media/samples/step_00000007")
    page = sync_run(trial).pages["tensorboard"]
    assert page == f"tensorboard --logdir {tmp_path}"
    next((trial.folder / "tensorboard").iterdir()).unlink()
    sync_run(Trial(trial.folder))
    (trial.folder / "sync_tensorboard.json").unlink()
    sync_run(Trial(trial.folder))
    assert read_tensorboard(trial.folder) == make_expected_metrics(range(3))
    events = list(read_events(trial.folder))
    texts = [value.tensor.string_val[0].decode() for _, value in events if value.tag == "config"]
    assert len(texts) == 1
    assert "hidden_sizes" in texts[0]
    images = [(step, value.tag, value.image.width, value.image.height) for step, value in events if value.image.width]
    assert images == [(200, "attempts/1/samples/step_200.png", 5, 3), (7, "samples/drawn", 5, 3)]
    made_by_callback = {value.tag: value for step, value in events if step == 7}
    assert made_by_callback["samples/said"].tensor.string_val == [b"    ein Hund"]
    sound, histogram = made_by_callback["samples/heard"].audio, made_by_callback["weights/a"].histo
    assert (sound.sample_rate, sound.length_frames) == (8000, 3)
    assert (list(histogram.bucket_limit), list(histogram.bucket)) == ([0.5, 1.0], [1, 2])
    assert (histogram.num, histogram.sum, histogram.sum_squares) == pytest.approx((3, 2, 2))


def test_a_tracker_that_fails_stops_no_other(runs_dir: Path) -> None:
    trial = make_run(runs_dir, tracking=track("failing", "csv", "mlflow"))
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
        journal.state("finished", step=3, attempt=1)
    write_outcome(trial)
    lines, left = list[str](), threading.Event()
    left.set()
    assert follow_run.follow(trial, 1, left, trust=TRUST, grace_s=0.0, say=lines.append) == 1
    assert read_metrics(runs_dir) == sorted(read_rows(trial.folder / "metrics.csv")) == make_expected_metrics(range(3))
    assert read_status(runs_dir) == "FINISHED"
    report = yaml.safe_load(lines[-1])
    assert report["run_id"]
    assert report["error"] == (
        "tracking.trackers.failing did not take 'a1b2c3': KeyError: 'no such column' (own_tracker.py:38); "
        f"its journals hold everything, `lathe sync {trial.reference}` retries"
    )
    with pytest.raises(StoreError, match=r"tests\.support\.own_tracker.*--trust tests"):
        sync_run(Trial(trial.folder))


def test_every_trial_of_a_sweep_is_in_every_tracker(runs_dir: Path) -> None:
    sweep = make_swept(
        runs_dir, [{"optimizer.lr": 0.001}, {"optimizer.lr": 0.002}], tracking=track("mlflow", "failing", "csv")
    )
    trials = [entry.id for entry in sweep.ledger().read().entries.values()]
    run_trial(sweep, trials[0], 0.5)
    syncing = SweepSync(type(sweep)(sweep.folder, TRUST))
    done = syncing.sync()
    assert (done.runs, len(done.failures), syncing.is_refused) == (1, 1, False)
    run_trial(sweep, trials[1], 0.75)
    assert len(sync_all(runs_dir, ["probe"], TRUST).failures) == 2
    rows = [read_rows(sweep.folder / trial / "metrics.csv") for trial in trials]
    assert [[row[1:] for row in sorted(one) if row[0] == "val/accuracy_top1"] for one in rows] == [
        [(100, 0.5), (200, 0.5)],
        [(100, 0.75), (200, 0.75)],
    ]


def test_several_trackers_are_chosen_together_and_do_not_change_the_trial() -> None:
    configs = {
        text: compose([f"tracking={text}"]).config for text in ("sqlite", "[tensorboard,sqlite]", "[off,tensorboard]")
    }
    assert len({trial_id(config) for config in configs.values()}) == 1
    assert [[*config["tracking"]["trackers"]] for config in configs.values()] == [
        ["mlflow"],
        ["tensorboard", "mlflow"],
        ["mlflow", "tensorboard"],
    ]
    assert configs["[off,tensorboard]"]["tracking"]["sync"] == "off"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracking=[sqlite,tensorbord]", "contains 'tensorbord', which is not an option of the group 'tracking'; did you mean"),
        ("model=[mlp,lenet]", "gives several options, but a group takes one; write model=mlp"),
        ("+tracking.trackers.x={_target_: tests.support.own_tracker.CsvTracker}", "if you trust the code of 'tests', add"),
        ("+tracking.trackers.x={_target_: modules.model.mlp.Mlp}", "takes a component for tracking; `lathe options tracking`"),
        ("+tracking.trackers.x={path: y}", "tracking.trackers.x does not name a class"),
        ("+tracking.trackers.x=y", "tracking.trackers.x=y does not name a class"),
        (
            "tracking=tensorboard",
            "needs the package 'tensorboard', which is not installed; `pip install 'lathe-dl[tensorboard]'`",
        ),
    ],
)  # fmt: skip
def test_a_tracker_that_cannot_work_is_reported_before_the_training(
    monkeypatch: pytest.MonkeyPatch, override: str, message: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    with pytest.raises(InputError) as error:
        make_plan(compose([override]).config)
    assert message in str(error.value)


def test_a_tracker_that_refuses_its_values_is_reported_before_the_training() -> None:
    node = "{_target_: tests.support.own_tracker.FailingTracker, when: now}"
    config = compose([f"+tracking.trackers.mine={node}"], trust=TRUST).config
    with pytest.raises(PlanError, match=r"tracking\.trackers\.mine: when=now cannot work; write later"):
        check_trackers(config, TRUST)


@pytest.mark.parametrize(
    ("name", "link"),
    [
        pytest.param("tensorboard", "tensorboard", marks=has_tensorboard), ("wandb", "wandb"), ("wandb", ".wandb"),
        ("table", "metrics.csv"),
        ("../../outside", None),
    ],
)  # fmt: skip
def test_a_tracker_writes_only_below_the_run_folder(tmp_path: Path, name: str, link: str | None) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tracking = track("mlflow")
    tracking["trackers"] = {name: NODES.get(name, NODES["wandb"])}
    trial = make_run(tmp_path, tracking=tracking)
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
    if link:
        (trial.folder / link).symlink_to(outside)
    with pytest.raises(StoreError, match=r"remove it|is not a name of a tracker"):
        sync_run(trial)
    assert [*outside.iterdir()] == []
    assert [*tmp_path.glob("**/sync_*")] == []


@has_tensorboard
def test_a_link_in_the_folder_of_tensorboard_is_neither_read_nor_cut(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("L", (2, 2)).save(secret)
    trial = make_run(tmp_path, tracking=track("tensorboard"))
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
        (trial.folder / "samples").mkdir()
        (trial.folder / "samples" / "a.png").symlink_to(secret)
        journal.artifact("samples")
    (trial.folder / "tensorboard").mkdir()
    (trial.folder / "tensorboard" / "events.out.tfevents.1.lathe").symlink_to(secret)
    before = secret.read_bytes()
    sync_run(trial)
    assert secret.read_bytes() == before
    (trial.folder / "tensorboard" / "events.out.tfevents.1.lathe").unlink()
    assert not [value.tag for _, value in read_events(trial.folder) if value.HasField("image")]
