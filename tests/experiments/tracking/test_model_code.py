"""Which code goes along with a model: found by what it imports, nothing imported to find it."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from experiments.config.allowlist import HOUSE
from experiments.config.options import groups
from experiments.core.errors import InputError
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
    """A package of one's own in the current folder, which is not on the import path."""
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


def test_the_files_of_a_model_need_nothing_but_what_is_required() -> None:
    tops = set[str]()
    for option in groups()["model"].values():
        target = option.read_text().partition("_target_: ")[2].split()[0]
        code = collect_code({"_target_": target}, HOUSE, ())
        assert Path(*target.split(".")[:-1]).with_suffix(".py") in code.files
        sources = [(HOUSE / file).read_text() for file in code.files]
        tops |= {name.partition(".")[0] for source in sources for name in _find_imports(source)}
    foreign = tops - set(sys.stdlib_module_names) - {"experiments", "modules"}
    assert foreign == IMPORTED_AS


def test_requirements_are_pinned_to_what_is_here() -> None:
    found = collect_code(SOFTMAX, HOUSE, ()).requirements
    assert [line.partition("==")[0] for line in found] == list(REQUIRED)
    assert f"torch=={version('torch').partition('+')[0]}" in found


def test_only_what_is_imported_goes_along() -> None:
    names = {file.name for file in collect_code(SOFTMAX, HOUSE, ()).files}
    assert {"softmax.py", "predictor.py", "instantiate.py", "__init__.py"} <= names
    assert not {"lenet.py", "gpt.py", "cli.py", "run.py", "digits.py"} & names


def test_a_package_of_ones_own_goes_along_with_what_it_imports(lab: Path, tmp_path: Path) -> None:
    code = collect_code(own(), HOUSE, ["mylab", "friends"])
    (tmp_path / "out").mkdir()
    for place in code.copy(tmp_path / "out"):
        assert place.exists()
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"lathe_loader.py", "lathe/mylab/net.py", "lathe/friends.py", "lathe/modules/model/mlp.py"} <= files
    assert not [name for name in files if ".env" in name or "__pycache__" in name]
    assert f"einops=={version('einops')}" in code.requirements
    assert "mylab" not in sys.modules


def test_an_installed_package_is_required_and_not_copied() -> None:
    code = collect_code({"_target_": "einops.layers.torch.Rearrange"}, HOUSE, ["einops"])
    assert code.packages == {}
    assert f"einops=={version('einops')}" in code.requirements


def test_a_package_that_holds_a_secret_stays_here(lab: Path) -> None:
    (lab / "settings.yaml").write_text("api_key: 0123456789abcdef0123\n")
    with pytest.raises(InputError, match=r"settings\.yaml looks as if it held a secret.*keep it out of there"):
        collect_code(own(), HOUSE, ["mylab"])


def test_a_package_full_of_data_stays_here(lab: Path) -> None:
    with (lab / "data.bin").open("wb") as file:
        file.truncate(21_000_000)
    with pytest.raises(InputError, match=r"'mylab' .* has 21 MB, more than the 20 MB of code"):
        collect_code(own(), HOUSE, ["mylab"])


def test_a_package_that_is_nowhere_is_told() -> None:
    with pytest.raises(InputError, match="the package 'nowhere' of the model cannot be found; go to the folder"):
        collect_code(own("nowhere"), HOUSE, ["nowhere"])


def test_targets_are_found_at_any_depth() -> None:
    node = {"_target_": "mylab.net.Net", "head": [{"_target_": "torch.nn.modules.activation.ReLU"}], "size": 3}
    assert list(find_targets(node)) == ["mylab.net.Net", "torch.nn.modules.activation.ReLU"]
    assert find_trusted_packages(node) == ["mylab"]
