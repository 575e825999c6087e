"""`lathe new` writes a project whose experiment and sweep can be planned at once."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from experiments.cli.main import main
from experiments.cli.project import new

pytestmark = pytest.mark.usefixtures("new_user")


def test_a_new_project_is_checked_by_its_schemas_and_by_lathe_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my-lab"
    (folder / ".git").mkdir(parents=True)
    assert main(["new", str(folder)]) == 0
    assert "git init" not in capsys.readouterr().out
    written = [path for path in folder.rglob("*") if path.is_file() and ".lathe" not in path.parts]
    assert not [path for path in written if re.search("PACKAGE|NAME|VERSION", path.read_text())]
    for path in [*folder.glob("conf/**/*.yaml"), *folder.glob("sweeps/*.yaml")]:
        named = re.search(r"^# yaml-language-server: \$schema=(.*)$", path.read_text(), re.MULTILINE)
        assert named is not None, path
        Draft202012Validator(yaml.safe_load((path.parent / named.group(1)).read_text())).validate(
            yaml.safe_load(path.read_text())
        )
    schema = Draft202012Validator(yaml.safe_load((folder / ".lathe/schema/model.json").read_text()))
    assert not schema.is_valid({"_target_": "my_lab.net.Net", "widht": 3})
    assert all(
        yaml.safe_load((folder / name).read_text())
        for name in (".pre-commit-config.yaml", ".github/workflows/check.yml")
    )

    monkeypatch.chdir(folder / "conf")
    assert main(["check"]) == 2
    assert "do not count" in capsys.readouterr().err
    assert main(["trust", ".."]) == 0
    assert main(["check"]) == 0
    assert capsys.readouterr().out.endswith("ok      experiment=spirals\nok      sweep width\n2 ok\n")
    assert main(["options", "model=net"]) == 0
    assert "model=net: Two hidden layers with tanh." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("2lab", "'2lab' is no name of a Python package"),
        ("mein_läb", "'mein_läb' is no name of a Python package"),
        ("_lab", "'_lab' is no name of a Python package"),
        ("class", "'class' is a keyword"),
        ("conf", "'conf' is the name of another package or folder"),
        ("lathe", "'lathe' is the name of another package or folder"),
        ("torch", "'torch' is the name of another package or folder"),
        ("json", "'json' is the name of another package or folder"),
        ("full", "full exists and is not an empty folder"),
        ("full/note.txt", "'note.txt' is no name of a Python package"),
        ("full/note/lab", "full/note/lab cannot be written (Not a directory)"),
        ("/", "'' is no name of a Python package"),
    ],
)
def test_what_cannot_be_a_project_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["new", name]) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path / "full") == ["note"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_no_part_of_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exists: bool
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(new, "write_schemas", fail)
    folder = tmp_path / "lab"
    if exists:
        (folder / ".git").mkdir(parents=True)
    assert main(["new", str(folder)]) == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [".git"] if exists else not folder.exists()
