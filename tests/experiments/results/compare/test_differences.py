"""What two records differ by, each in its group."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from experiments.results.compare.differences import Difference, differences
from experiments.results.compare.tables import streams_table
from experiments.run.metric_comparison import Divergence
from experiments.trial.record import RunRecord

CONFIG: dict[str, Any] = {
    "name": "one",
    "seed": 0,
    "runs_dir": "/a",
    "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]},
    "data": {"root": "/data", "folder": "set", "files": {"a.bin": "0" * 64}, "num_train": 5},
    "hardware": {"device": "cpu", "nodes": 1, "cpu_cores": 4, "slurm": None},
    "launcher": {"_target_": "launchers.local.Local"},
    "tracking": {"store": None},
}
CODE = {"name": "lathe", "sha256": "a" * 64, "git_sha": "1" * 40, "dirty": False}
ENVIRONMENT = {"python": "3.11.7", "platform": "Linux", "packages": {"torch": "2.13.0", "Pillow_x": "1"}}
SPLITS = {"train": {"digest": "d1", "num_examples": 1500}, "val": {"digest": "d2", "num_examples": 3}}


def record(**changes: Any) -> RunRecord:
    config = {**CONFIG, **changes.pop("config", {})}
    base: dict[str, Any] = {"code": [CODE], "environment": ENVIRONMENT, "data": {"files": None, "splits": SPLITS}}
    return RunRecord("r", "id", config, **{**base, **changes})


def test_two_equal_records_have_no_difference() -> None:
    differing = differences(record(), record())
    assert not differing.any()
    assert (differing.uncounted, differing.unknown) == ([], [])


def test_a_key_of_the_configuration_is_in_its_group() -> None:
    config = {
        "seed": 1,
        "optimizer": {"lr": 0.2, "betas": [0.9, 0.99], "nesterov": True},
        "data": CONFIG["data"] | {"files": {"a.bin": "1" * 64}, "num_train": 6},
        "hardware": CONFIG["hardware"] | {"nodes": 2},
    }
    differing = differences(record(), record(config=config)).groups
    assert differing["configuration"] == [
        Difference("optimizer.lr", "0.1", "0.2"),
        Difference("data.num_train", "5", "6"),
        Difference("optimizer.nesterov", "-", "true"),
    ]
    assert differing["seeds"] == [Difference("seed", "0", "1")]
    assert differing["hardware"] == [Difference("hardware.nodes", "1", "2")]
    assert differing["data"] == [Difference("data.files.a.bin", "0" * 64, "1" * 64)]


def test_names_paths_launcher_and_tracking_do_not_count() -> None:
    config = {
        "name": "other",
        "runs_dir": "/b",
        "data": CONFIG["data"] | {"root": "/elsewhere"},
        "hardware": CONFIG["hardware"] | {"cpu_cores": 8, "slurm": {"partition": "gpu"}},
        "launcher": {"_target_": "launchers.slurm.Slurm"},
        "tracking": {"store": "http://there"},
    }
    differing = differences(record(), record(config=config))
    assert not differing.any()
    assert {row.key for row in differing.uncounted} == {
        "name", "runs_dir", "data.root", "hardware.cpu_cores", "hardware.slurm", "hardware.slurm.partition",
        "launcher._target_", "tracking.store",
    }  # fmt: skip


def test_the_first_checkout_is_lathe_under_any_folder_name() -> None:
    moved = record(code=[CODE | {"name": "my-clone"}])
    assert not differences(record(), moved).any()
    edited = CODE | {"sha256": "b" * 64, "dirty": True}
    mine = {"name": "mine", "sha256": "c" * 64, "git_sha": None}
    assert differences(record(), record(code=[edited, mine])).groups["code"] == [
        Difference("lathe", "111111111111", "111111111111 with uncommitted changes (bbbbbbbb)"),
        Difference("mine", "-", "no git, sources cccccccccccc"),
    ]


def test_package_names_are_normalised() -> None:
    same = ENVIRONMENT | {"packages": {"Torch": "2.13.0", "pillow-x": "1"}}
    assert not differences(record(), record(environment=same)).any()
    other = ENVIRONMENT | {"python": "3.12.0", "packages": {"torch": "2.14.0", "new": "1"}}
    assert differences(record(), record(environment=other)).groups["environment"] == [
        Difference("python", "3.11.7", "3.12.0"),
        Difference("torch", "2.13.0", "2.14.0"),
        Difference("pillow-x", "1", "-"),
        Difference("new", "-", "1"),
    ]


def test_threads_and_processor_are_hardware() -> None:
    one, other = ({**ENVIRONMENT, "cpu_threads": count, "cpu_capability": "AVX2"} for count in (1, 2))
    assert differences(record(environment=one), record(environment=other)).groups["hardware"] == [
        Difference("cpu_threads", "1", "2")
    ]


def test_data_differs_by_its_splits_and_its_folder() -> None:
    splits = SPLITS | {"train": {"digest": "d9", "num_examples": 1500}}
    data = {"num_files": 3, "names_and_sizes_sha256": "s", "splits": splits}
    differing = differences(record(data=data | {"splits": SPLITS, "num_files": 2}), record(data=data)).groups["data"]
    assert differing == [
        Difference("num_files", "2", "3"),
        Difference("split train", "1,500 examples, d1", "1,500 examples, d9"),
    ]


def test_a_digest_of_an_earlier_version_is_compared_as_far_as_it_goes() -> None:
    one, other = ({"splits": {"train": {"digest": digest, "num_examples": 3}}} for digest in ("d1", "d1-e1"))
    differing = differences(record(data=one), record(data=other))
    assert not differing.any()
    assert differing.unknown == ["data splits beyond their first examples"]


def test_a_value_that_only_one_record_has_is_unknown_and_not_a_difference() -> None:
    bare = record(code=[], environment={}, data={"files": None})
    differing = differences(record(), bare)
    assert not differing.any()
    assert differing.unknown == ["code", "python", "platform", "packages", "data splits"]


def test_passwords_in_addresses_are_not_shown() -> None:
    address = "s3://me:" + "hush@there"  # in two, so that no snapshot takes this file for one with a secret
    differing = differences(record(), record(config={"optimizer": {"lr": address}}))
    assert "hush" not in str(differing.groups)


def test_names_of_metrics_and_runs_are_not_markup() -> None:
    parting = Divergence("val/[/red][blink]x", 1, None, 0.0, (1.0, 1.0), (0, 0))
    screen = Console(width=120, record=True, file=io.StringIO())
    screen.print(streams_table([parting]))
    assert "val/[/red][blink]x" in screen.export_text()
