"""Who may import whom, read from the source: imports run downhill and never sideways."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("conf", "experiments", "launchers", "modules", "sweeps")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALL_FILES = FILES + sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
MAX_LINES = 400

HOUSE = {
    "conf": set[str](),
    "experiments": set(PACKAGES),
    "launchers": {"launchers"},
    "modules": {"modules"},
    "sweeps": set[str](),
}
FOREIGN = {  # what a folder leaves to others
    "conf": {"torch", "hydra", "omegaconf", "mlflow", "submitit"},
    "experiments": set[str](),
    "launchers": {"torch", "hydra", "omegaconf", "mlflow"},
    "modules": {"hydra", "omegaconf", "mlflow", "submitit"},
    "sweeps": {"torch", "hydra", "omegaconf", "mlflow", "submitit"},
}
ONLY = {
    "hydra": {"experiments/compose.py"},
    # What writes runs and models to a store, and what serves it.
    "mlflow": {"experiments/mlflow_store.py", "experiments/export/mlflow_model.py", "experiments/ui_app.py"},
}
CONTRACTS = {  # beside every base.py: what a plan shares with engines
    "modules.parallel.deepspeed_config", "modules.parallel.fits", "modules.parallel.partition", "modules.parallel.topology",
    "modules.parallel.cost", "modules.parallel.counting", "modules.parallel.counts", "modules.parallel.layout",
    "modules.parallel.memory",
    "launchers.blame",  # a worker's crew judges its ranks as ranks of one machine are judged
    "launchers.remains",  # what an ended process leaves is cleared away by whoever started it
    # A rehearsal's cluster is no part of a trial that a `_target_` could name: the command line itself starts and ends it.
    "launchers.rehearsal", "launchers.rehearsal_conf", "launchers.rehearsal_place",
}  # fmt: skip
NO_TORCH = {"atomic", "checkpoint", "cli", "compose", "journal", "launch", "plan", "sync", "trial", "ui"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(source: str) -> set[str]:
    """Full names of all that is imported anywhere in a file; of ``from a import b`` both ``a`` and ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}; write the full path"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def faults(name: str, imported: set[str]) -> list[str]:
    """What a file imports against the table."""
    folder = name.split("/")[0]
    tops = {full.split(".")[0] for full in imported}
    found = [f"{top}: {folder} does not know it" for top in tops & set(PACKAGES) - HOUSE[folder]]
    found += [f"{top}: not in {folder}" for top in tops & FOREIGN[folder]]
    found += [
        f"{top}: only in {', '.join(sorted(only))}" for top, only in ONLY.items() if top in tops and name not in only
    ]
    if folder == "experiments":
        for full in imported:
            parts = full.split(".")
            is_contract = "base" in parts[1:3] or {".".join(parts[:2]), ".".join(parts[:3])} & CONTRACTS
            if parts[0] in ("launchers", "modules") and not is_contract:
                found.append(f"{full}: of {parts[0]} only the contracts; reach the rest through _target_")
            if parts[0] in ("conf", "sweeps") and len(parts) > 1:
                found.append(f"{full}: {parts[0]} is a folder to read files from, nothing in it is imported")
        if name.removeprefix("experiments/").removesuffix(".py") in NO_TORCH and "torch" in tops:
            found.append("torch: this step has to answer without it")
    return sorted(found)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downhill(path: Path) -> None:
    found = faults(name_of(path), imports(path.read_text()))
    assert not found, f"{name_of(path)} imports what its folder should not:\n  " + "\n  ".join(found)


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("modules/model/mlp.py", "import experiments.run", "experiments: modules does not know it"),
        ("modules/model/mlp.py", "def f():\n    import mlflow", "mlflow: not in modules"),
        ("launchers/local.py", "from modules.data import base", "modules: launchers does not know it"),
        ("launchers/local.py", "import torch.nn", "torch: not in launchers"),
        ("experiments/run.py", "from hydra import compose", "hydra: only in experiments/compose.py"),
        ("experiments/run.py", "from modules.parallel.single import Single", "only the contracts"),
        ("experiments/run.py", "from launchers import local", "only the contracts"),
        ("experiments/run.py", "import conf.model", "nothing in it is imported"),
        ("experiments/plan.py", "import torch", "torch: this step has to answer without it"),
        ("conf/__init__.py", "import modules", "modules: conf does not know it"),
    ],
)
def test_a_stray_import_is_found(name: str, source: str, told: str) -> None:
    assert any(told in fault for fault in faults(name, imports(source)))


def test_a_contract_may_be_imported() -> None:
    source = "from modules.parallel.base import Engine\nfrom launchers import base\nimport modules.data.base"
    assert not [fault for fault in faults("experiments/run.py", imports(source)) if "modules." in fault]


@pytest.mark.parametrize("path", [path for path in ALL_FILES if path.name == "__init__.py"], ids=name_of)
def test_an_init_file_is_empty(path: Path) -> None:
    assert path.read_text() == "", f"{name_of(path)} is not empty; a name has one path, that of its file"


@pytest.mark.parametrize("package", ["conf", "sweeps"])
def test_conf_and_sweeps_hold_no_code(package: str) -> None:
    assert [name_of(path) for path in (ROOT / package).rglob("*.py")] == [f"{package}/__init__.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_the_one_of_this_repository(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None, (
        f"no package '{package}' on the import path; install with `pip install -e .` or `make demo`"
    )
    found = Path(spec.origin or next(iter(spec.submodule_search_locations or [""]))).resolve()
    assert found.is_relative_to(ROOT), (
        f"'import {package}' finds {found}, not the one in {ROOT}: a stranger's '{package}' is in the way; "
        f"use an environment of its own (`make demo` makes one in {ROOT / '.venv'})"
    )


@pytest.mark.parametrize("path", [path for path in ALL_FILES if not name_of(path).startswith("tests/")], ids=name_of)
def test_a_file_holds_one_concept(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines of {MAX_LINES}; look for the second concept in it"


def test_no_file_is_a_drawer_of_helpers() -> None:
    assert not [name_of(path) for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]
