from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.config import signature
from experiments.config.signature import SourceError

Write = Callable[[str, str], None]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module that can be found but is never imported."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise SystemExit('this was imported')\n{text}")

    return write


def arguments(target: str) -> dict[str, bool]:
    """The arguments of a class, and whether each is required."""
    return {name: argument.required for name, argument in signature.read(target).arguments.items()}


def test_the_arguments_of_a_constructor_are_read(source: Write) -> None:
    source("net", "class Net:\n    def __init__(self, depth: int, /, width=3, *, bias: bool, name: str = ''): ...\n")
    spec = signature.read("net.Net")
    assert arguments("net.Net") == {"depth": True, "width": False, "bias": True, "name": False}
    assert not spec.is_open
    assert ast.unparse(spec.arguments["depth"].annotation or ast.Constant(0)) == "int"
    assert spec.arguments["width"].annotation is None


def test_keywords_leave_a_class_open(source: Write) -> None:
    source("net", "class Net:\n    def __init__(self, depth, **more): ...\n")
    assert signature.read("net.Net").is_open


def test_a_function_is_not_a_class(source: Write) -> None:
    source("net", "def make(depth: int, width: int = 3): ...\nclass Net: ...\n")
    assert arguments("net.make") == {"depth": True, "width": False}
    assert not signature.read("net.make").is_class
    assert signature.read("net.Net").is_class


def test_fields_of_a_dataclass_are_read_with_inherited_ones(source: Write) -> None:
    text = """
from dataclasses import dataclass, field
from typing import ClassVar
@dataclass
class Base:
    depth: int
    width: int = 3
@dataclass(frozen=True)
class Net(Base):
    kind: ClassVar[str]
    names: list[str] = field(default_factory=list)
    shown: bool = field(repr=False)
    hidden: int = field(init=False)
    width: int = 4
"""
    source("net", text)
    assert arguments("net.Net") == {"depth": True, "width": False, "names": False, "shown": True}


def test_a_constructor_is_inherited_over_modules(source: Write) -> None:
    source("base", "class Base:\n    def __init__(self, depth: int): ...\n")
    source("kinds.other", "import base\nclass Other(base.Base): ...\n")
    source("kinds.net", "from typing import Generic\nfrom .other import Other as O\nclass Net(O, Generic[T]): ...\n")
    assert arguments("kinds.net.Net") == {"depth": True}
    spec = signature.read("kinds.net.Net")
    assert (spec.module.name, spec.defined_in) == ("base", "kinds.net")


def test_a_class_is_resolved_through_imports_and_star_imports(source: Write) -> None:
    source("base", "class Base:\n    def __init__(self, depth: int): ...\n")
    source("kinds.__init__", "from base import *\n")
    source("kinds.more", "try:\n    from base import Base as Better\nexcept ImportError:\n    pass\n")
    assert arguments("kinds.Base") == {"depth": True}
    assert arguments("kinds.more.Better") == {"depth": True}
    assert signature.read("kinds.Base").defined_in == "base"


def test_a_torch_module_without_a_constructor_has_no_arguments(source: Write) -> None:
    source("net", "from torch import nn\nclass Net(nn.Module): ...\n")
    assert arguments("net.Net") == {}
    assert not signature.read("net.Net").is_open


def test_a_class_with_an_unreadable_base_is_open(source: Write) -> None:
    source("net", "from nowhere import Base\nclass Net(Base): ...\n")
    assert signature.read("net.Net").is_open


def test_a_class_whose_base_generates_constructors_is_open(source: Write) -> None:
    source("base", "@dataclass\nclass Base:\n    depth: int = 1\n    def __init_subclass__(cls): ...\n")
    source("net", "from base import Base\nclass Net(Base):\n    width: int = 2\n")
    assert signature.read("net.Net").is_open
    assert arguments("net.Net") == {"depth": False}


def test_a_missing_library_of_models_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "MODEL_PACKAGES", ("nowhere",))
    with pytest.raises(SourceError, match=r"^nowhere is not installed; `pip install 'lathe-dl\[models\]'`$"):
        signature.read("nowhere.create_model")


def test_circular_inheritance_ends(source: Write) -> None:
    source("net", "class A(B): ...\nclass B(A): ...\n")
    assert arguments("net.A") == {}


def test_torchs_own_optimizers_can_be_read() -> None:
    assert arguments("torch.optim.sgd.SGD")["lr"] is False
    assert arguments("torch.optim.sgd.SGD")["params"] is True
    assert signature.read("torch.nn.CrossEntropyLoss").module.name == "torch.nn.modules.loss"


def test_a_package_wins_over_a_module_of_the_same_name_as_it_does_in_python(source: Write) -> None:
    source("kinds.net", "class Wrong: ...\n")
    source("kinds.net.__init__", "class Right: ...\n")
    assert signature.read("kinds.net.Right").is_class


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("net", "'net' has no module; write package.module.Class"),
        (
            "nowhere.Net",
            "no package 'nowhere' is on the import path; install it, or run the command in the folder that contains it",
        ),
        ("kinds.nett.Net", "package 'kinds' has no module 'nett'; did you mean 'net'?"),
        ("kinds.net.Nett", "module 'kinds.net' has no class 'Nett'; did you mean 'Net'?"),
        ("kinds.net.deep.Net", "package 'kinds.net' has no module 'deep'; there are none"),
        ("kinds.Net", "'kinds' has no Python source"),
        ("math.Net", "'math' has no Python source"),
    ],
)
def test_a_missing_target_names_the_missing_part(target: str, message: str, source: Write) -> None:
    source("kinds.net", "class Net: ...\n")
    with pytest.raises(SourceError) as err:
        signature.read(target)
    assert str(err.value) == message


def test_a_syntax_error_is_reported_with_its_line(source: Write, tmp_path: Path) -> None:
    source("net", "class Net(\n")
    with pytest.raises(SourceError, match=r"net.py:2 is not valid Python: '\(' was never closed"):
        signature.read("net.Net")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9")
    with pytest.raises(SourceError, match=r"latin.py cannot be read: 'utf-8'"):
        signature.read("latin.Net")
