"""The differences between this machine and that of a run, reported before anything runs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.core.errors import InputError
from experiments.results.reproduce.environment import (
    best_capability,
    find_data_changes,
    find_environment_changes,
    reproducing_variables,
)
from experiments.trial.record import RunRecord, describe_environment
from experiments.trial.trial import fingerprint_data

CONFIG: dict[str, Any] = {"hardware": {"device": "cpu", "cpu_threads": None}}


def record(**environment: Any) -> RunRecord:
    return RunRecord("r", "id", CONFIG, [], describe_environment() | environment, {})


def test_the_same_environment_has_no_changes() -> None:
    assert find_environment_changes(record()) == []


def test_different_packages_and_python_are_reported_and_additional_packages_are_not() -> None:
    known = describe_environment()["packages"]
    packages = {name: version for name, version in known.items() if name != "rich"} | {"PyYAML": "1.0", "gone_one": "2"}
    assert find_environment_changes(record(packages=packages, python="3.0")) == [
        f"environment: python is {describe_environment()['python']}; the run had 3.0",
        f"environment: pyyaml is {known['PyYAML']}; the run had 1.0",
        "environment: gone-one is not installed; the run had 2",
    ]


def test_the_threads_of_the_run_are_multiplied_by_ranks_that_share_a_machine() -> None:
    variables, problems = reproducing_variables(record(cpu_threads=1), 1)
    assert (variables, problems) == ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, [])
    assert reproducing_variables(record(cpu_threads=3), 2)[0]["OMP_NUM_THREADS"] == "6"
    given = replace(record(cpu_threads=3), config={"hardware": {"cpu_threads": 3}})
    assert reproducing_variables(given, 2)[0]["OMP_NUM_THREADS"] == "3"
    many = (os.cpu_count() or 1) + 1
    assert f"used {many} threads, and this machine has" in reproducing_variables(record(cpu_threads=many), 1)[1][0]
    assert reproducing_variables(record(), 1) == ({}, [])


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("fpu sse4_2", "default"),
        ("fpu avx2 fma", "avx2"),
        ("avx2 fma avx512f avx512bw avx512dq", "avx2"),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl", "avx512"),
    ],
)
def test_the_instruction_set_is_read_from_the_flags(flags: str, best: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: x\nflags\t\t: {flags}\nbugs\t\t: none\n")
    assert best_capability(tmp_path / "cpuinfo") == best


def test_another_processor_architecture_gives_none(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: asimd\n")
    assert best_capability(tmp_path / "cpuinfo") is None
    assert best_capability(tmp_path / "nothing") is None


def test_torch_uses_the_kernels_of_the_run_if_the_processor_supports_them() -> None:
    assert reproducing_variables(record(cpu_capability="NO AVX"), 1) == ({"ATEN_CPU_CAPABILITY": "default"}, [])
    assert reproducing_variables(record(cpu_capability="SVE256"), 1) == ({}, [])


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin").write_bytes(b"one")
    return {"root": str(tmp_path), "folder": "set"}


def test_files_are_compared_with_their_checksums(node: dict[str, Any], tmp_path: Path) -> None:
    node["files"] = {"a.bin": hashlib.sha256(b"one").hexdigest()}
    recorded = fingerprint_data(node)
    assert find_data_changes({"data": node}, recorded) == []
    (tmp_path / "set" / "a.bin").write_bytes(b"two")
    with pytest.raises(
        InputError, match=r"a.bin has changed: its SHA-256 is 3fc4ccfe7458, and the run read 7692c3ad3540"
    ):
        find_data_changes({"data": node}, recorded)
    (tmp_path / "set" / "a.bin").unlink()
    with pytest.raises(InputError, match=r"a.bin is missing; `lathe data` shows its source"):
        find_data_changes({"data": node}, recorded)


def test_a_folder_without_checksums_is_compared_by_names_and_sizes(node: dict[str, Any], tmp_path: Path) -> None:
    recorded = fingerprint_data(node)
    assert find_data_changes({"data": node}, recorded) == []
    changed = f"data: {tmp_path / 'set'} has changed: "
    (tmp_path / "set" / "a.bin").write_bytes(b"longer")
    assert find_data_changes({"data": node}, recorded) == [changed + "names or sizes of its files differ"]
    (tmp_path / "set" / "b.bin").write_bytes(b"")
    assert find_data_changes({"data": node}, recorded) == [changed + "2 files, and the run had 1"]
    (tmp_path / "set" / "a.bin").unlink()
    (tmp_path / "set" / "b.bin").unlink()
    with pytest.raises(InputError, match="holds no files; copy the data there, or set LATHE_DATA"):
        find_data_changes({"data": node}, recorded)


def test_data_in_a_package_has_no_changes() -> None:
    node = {"_target_": "modules.data.digits.Digits"}
    assert find_data_changes({"data": node}, fingerprint_data(node)) == []


def test_an_unset_environment_variable_is_reported(node: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATHE_TEST_ROOT", raising=False)
    with pytest.raises(
        InputError, match=r"data\.root needs the environment variable LATHE_TEST_ROOT, which is not set; export it"
    ):
        find_data_changes({"data": node | {"root": "${oc.env:LATHE_TEST_ROOT}"}}, {"names_and_sizes_sha256": "0"})
