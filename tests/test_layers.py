"""Who may import whom, read from the source: imports run downhill and never sideways."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("conf", "experiments", "lathe", "launchers", "modules", "sweeps")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALL_FILES = FILES + sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
MAX_LINES = 400

HOUSE = {
    "conf": set[str](),
    "experiments": set(PACKAGES) - {"lathe"},
    "lathe": {"experiments", "lathe"},
    "launchers": {"launchers"},
    "modules": {"modules"},
    "sweeps": set[str](),
}
FOREIGN = {  # what a folder leaves to others
    "conf": {"torch", "hydra", "omegaconf", "mlflow", "submitit"},
    "experiments": set[str](),
    "lathe": {"torch", "hydra", "omegaconf", "mlflow"},
    "launchers": {"torch", "hydra", "omegaconf", "mlflow"},
    "modules": {"hydra", "omegaconf", "mlflow", "submitit"},
    "sweeps": {"torch", "hydra", "omegaconf", "mlflow", "submitit"},
}
ONLY = {
    "hydra": {
        "experiments/config/compose.py", "experiments/config/composition/groups.py", "experiments/config/overrides.py",
    },
    # What writes runs and models to a store, and what serves it.
    "mlflow": {
        "experiments/tracking/mlflow_client.py", "experiments/tracking/ui_server.py",
        "experiments/tracking/model/mlflow_model.py", "experiments/tracking/trackers/mlflow_removal.py",
    },
}  # fmt: skip
CONTRACTS = {  # beside every base.py
    # The plan and the engines share the topology, the cost model and DeepSpeed's settings.
    "modules.parallel.topology", "modules.parallel.cost_model", "modules.parallel.deepspeed.config",
    # The leader of a rank group and the store of its ranks ask for the secret in the same way.
    "modules.parallel.handshake",
    # Engines and the trainer write into the same checkpoints.
    "modules.parallel.checkpoint_format",
    # A training and `lathe predict` read a table alike.
    "modules.data.own.columns", "modules.data.own.json_rows",
    # Whether a folder belongs to this user.
    "launchers.ownership",
    # A worker starts, judges and clears away ranks as a launcher of this machine does.
    "launchers.processes.exit_cause", "launchers.processes.cleanup",
    # `lathe cluster` starts the local SLURM cluster; no trial names it.
    "launchers.local_cluster",
}  # fmt: skip
NO_TORCH = (
    "core",
    "config",
    "plan/plan.py",
    "run",
    "trial",
    "launch/run_trial.py",
    "tracking/run_sync.py",
    "tracking/ui.py",
    "cli",
)
"""Parts of `experiments/` that have to answer without torch."""
ORDER = (
    "core",
    "config",
    "run",
    "trial",
    "components",
    "plan",
    "train",
    "launch",
    "sweep",
    "tracking",
    "results",
    "cli",
)
"""The packages of `experiments/`; each imports itself and those to its left."""
SIDE_BY_SIDE = {("run", "config")}
"""Packages that do not know each other although the order would allow it: (importer, imported)."""
MAX_FILES = 15


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(source: str) -> set[str]:
    """Full names of all that is imported anywhere in a file; of ``from a import b`` both ``a`` and ``a.b``."""
    actual: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            actual |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}; write the full path"
            assert node.module is not None
            actual |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return actual


def faults(name: str, imported: set[str]) -> list[str]:
    """What a file imports against the table."""
    folder = name.split("/")[0]
    tops = {full.split(".")[0] for full in imported}
    actual = [f"{top}: {folder} does not know it" for top in tops & set(PACKAGES) - HOUSE[folder]]
    actual += [f"{top}: not in {folder}" for top in tops & FOREIGN[folder]]
    actual += [
        f"{top}: only in {', '.join(sorted(only))}" for top, only in ONLY.items() if top in tops and name not in only
    ]
    if folder == "experiments":
        for full in imported:
            parts = full.split(".")
            is_contract = "base" in parts[1:3] or any(f"{full}.".startswith(f"{contract}.") for contract in CONTRACTS)
            if parts[0] in ("launchers", "modules") and not is_contract:
                actual.append(f"{full}: of {parts[0]} only the contracts; reach the rest through _target_")
            if parts[0] in ("conf", "sweeps") and len(parts) > 1:
                actual.append(f"{full}: {parts[0]} is a folder to read files from, nothing in it is imported")
        if name.removeprefix("experiments/").startswith(NO_TORCH) and "torch" in tops:
            actual.append("torch: this step has to answer without it")
    return sorted(actual)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downhill(path: Path) -> None:
    actual = faults(name_of(path), imports(path.read_text()))
    assert not actual, f"{name_of(path)} imports what its folder should not:\n  " + "\n  ".join(actual)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("modules/model/mlp.py", "import experiments.train.trainer", "experiments: modules does not know it"),
        ("modules/model/mlp.py", "def f():\n    import mlflow", "mlflow: not in modules"),
        ("launchers/local.py", "from modules.data import base", "modules: launchers does not know it"),
        ("launchers/local.py", "import torch.nn", "torch: not in launchers"),
        ("experiments/train/trainer.py", "from hydra import compose", "hydra: only in experiments/config/compose.py"),
        ("experiments/train/trainer.py", "from modules.parallel.single import Single", "only the contracts"),
        ("experiments/train/trainer.py", "from launchers import local", "only the contracts"),
        ("experiments/train/trainer.py", "import conf.model", "nothing in it is imported"),
        ("experiments/plan/plan.py", "import torch", "torch: this step has to answer without it"),
        ("conf/__init__.py", "import modules", "modules: conf does not know it"),
    ],
)
def test_a_stray_import_is_found(name: str, source: str, message: str) -> None:
    assert any(message in fault for fault in faults(name, imports(source)))


def test_a_contract_may_be_imported() -> None:
    source = "from modules.parallel.base import Engine\nfrom launchers import base\nimport modules.data.base"
    assert not [fault for fault in faults("experiments/train/trainer.py", imports(source)) if "modules." in fault]


def test_packages_import_downwards() -> None:
    rank = {package: number for number, package in enumerate(ORDER)}
    wrong = []
    for path in (ROOT / "experiments").rglob("*.py"):
        package = path.relative_to(ROOT / "experiments").parts[0]
        for module in imports(path.read_text()):
            parts = module.split(".")
            if package not in rank or parts[0] != "experiments" or len(parts) < 2:
                continue
            if rank[parts[1]] > rank[package] or (package, parts[1]) in SIDE_BY_SIDE:
                wrong.append(f"{name_of(path)} -> {module}")
    assert not wrong, "these imports run upwards:\n  " + "\n  ".join(sorted(wrong))


def test_no_import_cycle() -> None:
    modules = {name_of(path).removesuffix(".py").replace("/", "."): path for path in FILES}
    graph = {name: (imports(path.read_text()) & set(modules)) - {name} for name, path in modules.items()}
    graphlib.TopologicalSorter(graph).prepare()  # its CycleError names the files


def test_a_folder_of_code_has_few_files() -> None:
    sizes = {
        name_of(folder): sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        for package in ("experiments", "launchers", "modules")
        for folder in [ROOT / package, *(ROOT / package).rglob("*")]
        if folder.is_dir()
    }
    large = {name: size for name, size in sizes.items() if size > MAX_FILES}
    large.pop("modules/model")  # a file for each of 16 models; `_target_` names them, so they stay side by side
    assert not large


def test_a_class_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(name_of(path))
    assert not {name: files for name, files in homes.items() if len(files) > 1}


@pytest.mark.parametrize(
    "path", [path for path in ALL_FILES if path.name == "__init__.py" and path.parent.name != "lathe"], ids=name_of
)
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
    actual = Path(spec.origin or next(iter(spec.submodule_search_locations or [""]))).resolve()
    assert actual.is_relative_to(ROOT), (
        f"'import {package}' finds {actual}, not the one in {ROOT}: a stranger's '{package}' is in the way; "
        f"use an environment of its own (`make demo` makes one in {ROOT / '.venv'})"
    )


@pytest.mark.parametrize("path", [path for path in ALL_FILES if not name_of(path).startswith("tests/")], ids=name_of)
def test_a_file_holds_one_concept(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines of {MAX_LINES}; look for the second concept in it"


def test_no_file_has_a_catch_all_name() -> None:
    assert not [name_of(path) for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]
