"""Folders of other users are not used where others can guess the path."""

from __future__ import annotations

import argparse
import os
import re
import stat
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from experiments.cli.local_cluster import cluster
from experiments.config.allowlist import trusted
from experiments.core.errors import InputError
from experiments.train.attempt import _choose_compile_cache
from experiments.trial.trial import create_run_folder
from launchers.base import LaunchError
from launchers.local_cluster.settings import RECORD
from launchers.local_cluster.slurm_conf import ClusterSpec
from launchers.ownership import find_foreign_owner, find_sharing, find_squatter, make_private

STRANGER = 64321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
FOREIGN: dict[str, Callable[[Path], object]] = {
    "of another user": lambda path: os.chown(path, STRANGER, -1),
    "a link": lambda path: path.symlink_to(path.rename(f"{path}_target")),
    "open to all": lambda path: path.chmod(0o777),
}
kinds = pytest.mark.parametrize("kind", [pytest.param("of another user", marks=needs_root), "a link", "open to all"])
MESSAGE = r"belongs to user 64321, not to you|is a link to|may be written by every user \(mode 0777\)"


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A folder in which every user may make folders, as /tmp."""
    folder = tmp_path / "public"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@kinds
def test_place_of_another_user_is_found(kind: str, public: Path) -> None:
    own = public / "own"
    assert find_sharing(own) is find_squatter(own) is None
    make_private(own)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert find_sharing(own) is find_foreign_owner(own) is None
    own.chmod(0o750)
    assert find_foreign_owner(own) is None
    assert find_sharing(own) == "is open to other users (mode 0750)"
    FOREIGN[kind](own)
    for find in (find_foreign_owner, find_sharing, find_squatter):
        assert re.search(MESSAGE, find(own) or "")
    with pytest.raises(PermissionError, match=MESSAGE):
        make_private(own)


@kinds
@pytest.mark.parametrize("action", ["up", "status", "down"])
def test_every_command_refuses_the_cluster_of_another_user(
    kind: str, action: str, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = public / "lathe-cluster-me"
    make_private(folder)
    (folder / RECORD).write_text("{}")
    FOREIGN[kind](folder)
    monkeypatch.setattr("experiments.cli.local_cluster.choose_default_folder", lambda: folder)
    before = folder.stat()
    flags = dict.fromkeys(field.name for field in fields(ClusterSpec))
    args = argparse.Namespace(action=action, dir=None, **flags)
    with pytest.raises(LaunchError, match=rf"the folder {folder} of the local cluster ({MESSAGE}).*use another folder"):
        cluster(args)
    assert folder.stat() == before
    assert [path.name for path in folder.iterdir()] == [RECORD]


@kinds
def test_runs_settings_and_compiled_code_of_another_user_are_refused(
    kind: str, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runs", "lathe"):
        make_private(public / name)
    (public / "lathe" / "settings.yaml").write_text("trust: [evil]")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(public))
    monkeypatch.setattr(tempfile, "tempdir", str(public))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    compiled = f"lathe-compiled-{os.getuid()}"
    _choose_compile_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(public / compiled)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    assert trusted() == ("evil",)
    with create_run_folder(public / "runs", "single/a"):
        pass
    for name in ("runs", "lathe", compiled):
        FOREIGN[kind](public / name)
    if kind != "a link":  # people link their settings, and its target is theirs
        with pytest.raises(InputError, match=rf"settings\.yaml ({MESSAGE}), and it lists the packages that you trust"):
            trusted()
    with pytest.raises(InputError, match=rf"({MESSAGE}).*, and compiled code in it would run as you"):
        _choose_compile_cache()
    with (
        pytest.raises(InputError, match=rf"runs_dir=.*runs ({MESSAGE}).*choose a folder of your own"),
        create_run_folder(public / "runs", "single/a"),
    ):
        pass
