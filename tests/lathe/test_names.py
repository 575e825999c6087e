"""A user's packages that have the names of Lathe's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.components.instantiate import instantiate
from experiments.config import signature
from experiments.config.allowlist import how_to_allow, is_allowed, is_own, is_trusted
from experiments.core.errors import InputError
from experiments.core.files import packages
from experiments.core.files.packages import PACKAGES, PROJECT_ROOT, check_own_packages, find_package
from experiments.tracking.model.model_code import collect_code
from experiments.trial.code_copy import copy_packages
from launchers.base import module_command
from tests.support.waiting import PATIENCE_S

MINE = "class Mine:\n    def __init__(self, size: int) -> None: ...\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with a user's packages, which have the names of Lathe's."""
    folder = tmp_path / "src"
    for name in PACKAGES:
        (folder / name / "model").mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"print('the user has {name}')\n")
    for file in ("modules/extra.py", "modules/model/mine.py", "modules/model/mlp.py", "experiments/cli.py"):
        (folder / file).write_text(MINE)
    for module in ("torch", "random", "yaml"):  # a file of the current folder is not imported
        (tmp_path / f"{module}.py").write_text("raise SystemExit('it was imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(folder)
    return folder


def python(*args: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *args], capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        env={"PYTHONPATH": f"{path}:{PROJECT_ROOT}", "LATHE_RUNS": "runs"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_the_command_and_its_processes_import_lathe_and_not_the_users_packages(project: Path) -> None:
    assert "usage: lathe diff" in python("-m", "lathe", "diff", path=project)
    assert python(*module_command("launchers.slurm_tasks.task"), "--help", path=project).startswith("usage: ")


SCRIPT = """
import modules.extra, experiments.cli_of_mine  # the user's, before Lathe
from lathe import runs
import importlib.util, lathe.launchers.base, launchers.base, modules.model.mine
print(lathe.launchers.base is launchers.base, launchers.base.__spec__.name)
print(modules.model.mine.Mine, importlib.util.find_spec("modules.model.mlp").origin)
print(runs.__module__)
"""


def test_a_script_imports_both_its_own_modules_and_those_of_lathe(project: Path) -> None:
    (project / "experiments" / "cli_of_mine.py").touch()
    assert python("-c", SCRIPT, path=project).splitlines() == [
        "the user has modules", "the user has experiments", "True launchers.base",
        f"<class 'modules.model.mine.Mine'> {PROJECT_ROOT}/modules/model/mlp.py", "experiments.api",
    ]  # fmt: skip
    message = python("-c", "import experiments.cli\nimport lathe", path=project).splitlines()[-1]
    assert message.startswith(
        f"ImportError: the module 'experiments.cli' was imported from {project}/experiments/cli.py"
    )
    assert "so rename yours, or install Lathe with `pip install" in message


@pytest.mark.usefixtures("project")
def test_a_target_is_lathes_where_lathe_has_the_module_and_else_the_users() -> None:
    for target in ("modules.extra.Mine", "modules.model.mine.Mine"):
        assert not is_allowed(target), "a user's module needs trust"
        assert is_trusted(target, ["modules"])
        assert list(signature.read(target).arguments) == ["size"]
        assert how_to_allow(target, []) == "if you trust the code of 'modules', add `--trust modules`"
    assert is_own("modules.model.mlp.Mlp")
    assert not is_trusted("modules.model.mlp.Mlp", ["modules"]), (
        "trust in a user's package is none in Lathe's internals"
    )
    assert "hidden_sizes" in signature.read("modules.model.mlp.Mlp").arguments
    assert how_to_allow("lathe.modules.model.mlp.Mlp", []) == "write modules.model.mlp.Mlp"


def test_a_module_that_both_have_is_lathes_and_the_message_says_so(project: Path) -> None:
    reason = f"is Lathe's module, not the one in {project}/"
    with pytest.raises(signature.SourceError, match=f"'modules.model.mlp' {reason}modules; rename yours"):
        signature.read("modules.model.mlp.Mine")
    assert (
        how_to_allow("experiments.cli.Mine", ["experiments"]) == f"'experiments.cli' {reason}experiments; rename yours"
    )
    with pytest.raises(InputError, match="is not on the list of code that may run"):
        instantiate({"_target_": "experiments.components.instantiate.instantiate"}, "model", ["experiments"])


def test_a_sweep_copies_both_packages_of_one_name(project: Path, tmp_path: Path) -> None:
    code = tmp_path / "runs" / "s" / "code" / "packages"
    copy_packages(["modules"], code)
    assert (code / "lathe" / "start.py").is_file()
    assert "is_component" in (code / "modules" / "model" / "mlp.py").read_text()
    assert (code.parent / "user" / "modules" / "model" / "mlp.py").read_text() == MINE
    assert module_command("experiments.cli", code)[0] == str(code / "lathe" / "start.py")
    (code / "lathe" / "start.py").unlink()  # a copy by an earlier version
    assert module_command("experiments.cli", code) == ["-m", "experiments.cli"]
    spec = find_package("modules")
    assert spec is not None
    assert spec.origin == str(project / "modules" / "__init__.py")


@pytest.mark.usefixtures("project")
def test_a_model_that_needs_both_packages_of_one_name_is_not_exported() -> None:
    with pytest.raises(InputError, match=r"your module 'modules\.extra'.*; rename your package, or install Lathe with"):
        collect_code({"_target_": "modules.extra.Mine"}, PROJECT_ROOT, ["modules"])


def test_another_package_of_the_same_name_is_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PROJECT_ROOT", project)
    with pytest.raises(InputError, match=rf"is imported from {PROJECT_ROOT}/\w+, not from {project}/\w+; use the"):
        check_own_packages()
