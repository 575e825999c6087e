"""What of this machine is not as a run had it, told before anything runs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.core.errors import InputError
from experiments.results.reproduce import environment as surroundings
from experiments.results.reproduce.environment import best_capability
from experiments.trial.record import CodeRecord, here
from experiments.trial.trial import data_fingerprint

CONFIG: dict[str, Any] = {"hardware": {"device": "cpu", "cpu_threads": None}}


def record(**environment: Any) -> CodeRecord:
    return CodeRecord("r", "id", CONFIG, [], here() | environment, {})


def test_here_nothing_is_amiss() -> None:
    assert surroundings.environment(record()) == []


def test_packages_and_python_that_differ_are_told_and_further_ones_are_not() -> None:
    known = here()["packages"]
    packages = {name: version for name, version in known.items() if name != "rich"} | {"PyYAML": "1.0", "gone_one": "2"}
    assert surroundings.environment(record(packages=packages, python="3.0")) == [
        f"environment: python is {here()['python']}; the run had 3.0",
        f"environment: pyyaml is {known['PyYAML']}; the run had 1.0",
        "environment: gone-one is not installed; the run had 2",
    ]


def test_threads_are_those_of_the_run_and_shared_out_where_ranks_share() -> None:
    told, unlike = surroundings.variables(record(cpu_threads=1), 1)
    assert (told, unlike) == ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, [])
    assert surroundings.variables(record(cpu_threads=3), 2)[0]["OMP_NUM_THREADS"] == "6"
    given = replace(record(cpu_threads=3), config={"hardware": {"cpu_threads": 3}})
    assert surroundings.variables(given, 2)[0]["OMP_NUM_THREADS"] == "3"
    many = (os.cpu_count() or 1) + 1
    assert f"with {many} threads, and this machine has" in surroundings.variables(record(cpu_threads=many), 1)[1][0]
    assert surroundings.variables(record(), 1) == ({}, [])


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("fpu sse4_2", "default"),
        ("fpu avx2 fma", "avx2"),
        ("avx2 fma avx512f avx512bw avx512dq", "avx2"),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl", "avx512"),
    ],
)
def test_what_a_processor_knows_is_read_from_its_flags(flags: str, best: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: x\nflags\t\t: {flags}\nbugs\t\t: none\n")
    assert best_capability(tmp_path / "cpuinfo") == best


def test_another_family_of_processors_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: asimd\n")
    assert best_capability(tmp_path / "cpuinfo") is None
    assert best_capability(tmp_path / "nothing") is None


def test_torch_is_asked_for_the_kernels_of_the_run_where_the_processor_has_them() -> None:
    assert surroundings.variables(record(cpu_capability="NO AVX"), 1) == ({"ATEN_CPU_CAPABILITY": "default"}, [])
    assert surroundings.variables(record(cpu_capability="SVE256"), 1) == ({}, [])


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin").write_bytes(b"one")
    return {"root": str(tmp_path), "folder": "set"}


def test_files_are_held_against_their_checksums(node: dict[str, Any], tmp_path: Path) -> None:
    node["files"] = {"a.bin": hashlib.sha256(b"one").hexdigest()}
    recorded = data_fingerprint(node)
    assert surroundings.data({"data": node}, recorded) == []
    (tmp_path / "set" / "a.bin").write_bytes(b"two")
    with pytest.raises(
        InputError, match=r"a.bin has changed: its sha256 is 3fc4ccfe7458, and the run read 7692c3ad3540"
    ):
        surroundings.data({"data": node}, recorded)
    (tmp_path / "set" / "a.bin").unlink()
    with pytest.raises(InputError, match=r"a.bin is missing; `lathe data` says where it comes from"):
        surroundings.data({"data": node}, recorded)


def test_a_folder_without_checksums_is_known_by_names_and_sizes(node: dict[str, Any], tmp_path: Path) -> None:
    recorded = data_fingerprint(node)
    assert surroundings.data({"data": node}, recorded) == []
    changed = f"data: {tmp_path / 'set'} has changed: "
    (tmp_path / "set" / "a.bin").write_bytes(b"longer")
    assert surroundings.data({"data": node}, recorded) == [changed + "names or sizes of its files are others"]
    (tmp_path / "set" / "b.bin").write_bytes(b"")
    assert surroundings.data({"data": node}, recorded) == [changed + "2 files, and the run had 1"]
    (tmp_path / "set" / "a.bin").unlink()
    (tmp_path / "set" / "b.bin").unlink()
    with pytest.raises(InputError, match="holds no files; bring the data there, or set LATHE_DATA"):
        surroundings.data({"data": node}, recorded)


def test_data_that_comes_with_a_package_needs_nothing() -> None:
    node = {"_target_": "modules.data.digits.Digits"}
    assert surroundings.data({"data": node}, data_fingerprint(node)) == []


def test_a_variable_that_is_not_set_is_told(node: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATHE_TEST_ROOT", raising=False)
    with pytest.raises(
        InputError, match=r"data\.root needs the variable LATHE_TEST_ROOT, which is not set here; export it"
    ):
        surroundings.data({"data": node | {"root": "${oc.env:LATHE_TEST_ROOT}"}}, {"names_and_sizes_sha256": "0"})
