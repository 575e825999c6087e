"""The code that is exported with a model, collected from its imports without importing it."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from experiments.config.options import groups
from experiments.core.errors import InputError
from experiments.core.files.packages import PROJECT_ROOT
from experiments.tracking.model.model_code import (
    REQUIRED,
    _find_imports,
    collect_code,
    find_targets,
    find_trusted_packages,
)

SOFTMAX = {"_target_": "modules.model.softmax.Softmax"}
IMPORTED_AS = {"torch", "numpy", "safetensors", "yaml"}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package in the current folder, which is not on the import path."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mylab"
    folder.mkdir()
    (folder / "net.py").write_text(
        "import einops, json\nfrom modules.model.mlp import Mlp\nfrom friends import other\n"
    )
    (folder / ".env").write_text("x")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "net.pyc").write_text("x")
    (tmp_path / "friends.py").write_text("import torch\n")
    return folder


def own(package: str = "mylab") -> dict[str, str]:
    return {"_target_": f"{package}.net.Net"}


def test_files_of_a_model_import_only_required_packages() -> None:
    tops = set[str]()
    for option in groups()["model"].values():
        target = option.read_text().partition("_target_: ")[2].split()[0]
        code = collect_code({"_target_": target}, PROJECT_ROOT, ())
        assert Path(*target.split(".")[:-1]).with_suffix(".py") in code.files
        sources = [(PROJECT_ROOT / file).read_text() for file in code.files]
        tops |= {name.partition(".")[0] for source in sources for name in _find_imports(source)}
    # `launchers` is imported only where the user's settings are read, which a model does not do.
    foreign = tops - set(sys.stdlib_module_names) - {"experiments", "modules", "launchers"}
    assert foreign == {*IMPORTED_AS, "transformers"}  # an extra, which only models of it import


def test_requirements_are_pinned_to_installed_versions() -> None:
    requirements = collect_code(SOFTMAX, PROJECT_ROOT, ()).requirements
    assert [line.partition("==")[0] for line in requirements] == list(REQUIRED)
    assert f"torch=={version('torch').partition('+')[0]}" in requirements


def test_only_imported_files_are_collected() -> None:
    names = {file.name for file in collect_code(SOFTMAX, PROJECT_ROOT, ()).files}
    assert {"softmax.py", "predictor.py", "instantiate.py", "__init__.py"} <= names
    assert not {"lenet.py", "gpt.py", "cli.py", "run.py", "digits.py"} & names


def test_user_package_is_copied_with_its_requirements(lab: Path, tmp_path: Path) -> None:
    code = collect_code(own(), PROJECT_ROOT, ["mylab", "friends"])
    (tmp_path / "out").mkdir()
    for path in code.copy(tmp_path / "out"):
        assert path.exists()
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"lathe_loader.py", "lathe/mylab/net.py", "lathe/friends.py", "lathe/modules/model/mlp.py"} <= files
    assert not [name for name in files if ".env" in name or "__pycache__" in name]
    assert f"einops=={version('einops')}" in code.requirements
    assert "mylab" not in sys.modules


def test_installed_package_is_a_requirement_and_not_copied() -> None:
    code = collect_code({"_target_": "einops.layers.torch.Rearrange"}, PROJECT_ROOT, ["einops"])
    assert code.packages == {}
    assert f"einops=={version('einops')}" in code.requirements


def test_package_with_a_secret_is_refused(lab: Path) -> None:
    (lab / "settings.yaml").write_text("api_key: 0123456789abcdef0123\n")
    with pytest.raises(InputError, match=r"settings\.yaml seems to hold a secret.*move the secret out of the package"):
        collect_code(own(), PROJECT_ROOT, ["mylab"])


def test_package_full_of_data_is_refused(lab: Path) -> None:
    with (lab / "data.bin").open("wb") as file:
        file.truncate(21_000_000)
    with pytest.raises(InputError, match=r"'mylab' .* has 21 MB, more than the limit of 20 MB"):
        collect_code(own(), PROJECT_ROOT, ["mylab"])


def test_missing_package_is_refused() -> None:
    with pytest.raises(InputError, match="the package 'nowhere' of the model cannot be found; change to the folder"):
        collect_code(own("nowhere"), PROJECT_ROOT, ["nowhere"])


def test_targets_are_found_at_any_depth() -> None:
    node = {"_target_": "mylab.net.Net", "head": [{"_target_": "torch.nn.modules.activation.ReLU"}], "size": 3}
    assert list(find_targets(node)) == ["mylab.net.Net", "torch.nn.modules.activation.ReLU"]
    assert find_trusted_packages(node) == ["mylab"]
