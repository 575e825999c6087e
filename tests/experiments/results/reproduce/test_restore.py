"""Restored code: the worktree equals the snapshot, and nothing is written outside of it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.core.errors import InputError
from experiments.trial.code_restore import restore_code
from experiments.trial.code_snapshot import take_snapshot
from tests.support.clones import commit, git

HOUSE = {"name": "lathe", "sha256": "0" * 64, "git_sha": None}
"""The first entry is always Lathe itself; another digest is reported, and its files stay as they are."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a trusted package."""
    root = tmp_path / "my project"
    (root / "minepkg").mkdir(parents=True)
    git(root, "init", "-q")
    (root / "minepkg" / "__init__.py").write_text("")
    (root / "minepkg" / "net.py").write_text("scale = 1\n")
    (root / "gone.py").write_text("x\n")
    (root / "picture.bin").write_bytes(bytes(range(256)))
    (root / ".gitignore").write_text("*.log\n__pycache__\n")
    commit(root, "first")
    monkeypatch.syspath_prepend(str(root))
    return root


def freeze(project: Path, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    return [HOUSE, take_snapshot(project, folder, [])]


def state(root: Path) -> dict[str, tuple[object, ...]]:
    """Kind, content and mode of every file that git does not ignore."""
    names = set(git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")) - {""}
    paths = [root / name for name in sorted(names) if os.path.lexists(root / name)]
    return {
        path.relative_to(root).as_posix(): ("link", os.readlink(path))
        if path.is_symlink()
        else (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in paths
    }


def dirty(root: Path) -> None:
    """Change a working tree in every way that a snapshot records."""
    (root / "minepkg" / "net.py").write_text("scale = 2\n")
    (root / "gone.py").unlink()
    (root / "picture.bin").write_bytes(bytes(reversed(range(256))))
    (root / "staged new.py").write_text("staged\n")
    git(root, "add", "staged new.py")
    (root / "minepkg" / "ünt racked.py").write_text("untracked\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o775)
    (root / "link").symlink_to("minepkg/net.py")
    (root / "left.log").write_text("ignored\n")


def test_a_dirty_tree_is_restored_with_the_same_digest(project: Path, tmp_path: Path) -> None:
    dirty(project)
    code, before = freeze(project, tmp_path / "code"), state(project)
    git(project, "reset", "-q", "--hard")
    git(project, "clean", "-q", "-fdx")
    commit(project, "second")
    after = state(project)
    with restore_code(code, tmp_path / "code", ["minepkg"], tmp_path / "runs") as code_here:
        worktree = code_here.roots[1]
        assert worktree.name == "my project"
        assert state(worktree) == before
        assert code_here.on_path[1] == worktree
        assert code_here.messages == [
            f"code: 'my project' restored at commit {code[1]['git_sha'][:12]} with its uncommitted changes; "
            f"sha256 {code[1]['sha256'][:12]} is the run's"
        ]
        assert len(code_here.problems) == 1
        assert code_here.problems[0].startswith("code: 'lathe' has no commit, so it cannot be restored")
    assert not worktree.exists()
    assert state(project) == after
    assert len(git(project, "worktree", "list").splitlines()) == 1


def test_an_unmerged_commit_is_restored_only_for_a_trusted_file(project: Path, tmp_path: Path) -> None:
    git(project, "checkout", "-q", "-b", "theirs")
    (project / "minepkg" / "net.py").write_text("scale = 'untrusted'\n")
    git(project, "commit", "-qam", "as a pull request that was fetched")
    code = freeze(project, tmp_path / "code")
    with restore_code(code, None, ["minepkg"], tmp_path / "runs", only_merged=True) as code_here:
        assert len(code_here.roots) == 2  # it is what is checked out
    git(project, "checkout", "-q", "-")
    with (
        pytest.raises(
            InputError, match=r"is in .*, but is not an ancestor of what is checked out there; .*--trust-code"
        ),
        restore_code(code, None, ["minepkg"], tmp_path / "runs", only_merged=True),
    ):
        pass
    with restore_code(code, None, ["minepkg"], tmp_path / "runs") as code_here:
        assert (code_here.roots[1] / "minepkg" / "net.py").read_text() == "scale = 'untrusted'\n"


def test_git_settings_of_the_user_have_no_effect(project: Path, tmp_path: Path) -> None:
    hook = project / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/hooked'\n")
    hook.chmod(0o755)
    (project / "minepkg" / "net.py").write_text("scale = 1 \n\n\n" * 9)
    code = freeze(project, tmp_path / "code")
    for name, value in {"diff.algorithm": "patience", "diff.context": "9", "apply.whitespace": "fix"}.items():
        git(project, "config", name, value)
    git(project, "config", "diff.noprefix", "true")
    git(project, "checkout", "-q", "--", ".")
    (tmp_path / "hooked").unlink(missing_ok=True)
    with restore_code(code, tmp_path / "code", ["minepkg"], tmp_path / "runs") as code_here:
        assert "is the run's" in code_here.messages[0]
    assert not (tmp_path / "hooked").exists()


def test_an_exception_removes_the_worktree_unless_it_is_kept(project: Path, tmp_path: Path) -> None:
    code = freeze(project, tmp_path / "code")
    with contextlib.suppress(KeyboardInterrupt), restore_code(code, None, ["minepkg"], tmp_path / "runs") as code_here:
        assert code_here.roots[1].is_dir()
        raise KeyboardInterrupt
    assert not code_here.roots[1].exists()
    assert len(git(project, "worktree", "list").splitlines()) == 1
    with restore_code(code, None, ["minepkg"], tmp_path / "runs", keep=True) as code_here:
        pass
    assert (code_here.roots[1] / "minepkg" / "net.py").read_text() == "scale = 1\n"
    git(project, "worktree", "remove", "--force", str(code_here.roots[1]))
    shutil.rmtree(code_here.roots[1].parent.parent)


def test_without_its_files_only_the_commit_is_restored_with_a_warning(project: Path, tmp_path: Path) -> None:
    dirty(project)
    code = freeze(project, tmp_path / "code")
    with restore_code(code, None, ["minepkg"], tmp_path / "runs") as code_here:
        assert (code_here.roots[1] / "gone.py").is_file()
    assert code_here.problems[1].endswith(f"{code[1]['git_sha'][:12]}, without the uncommitted changes of the run")


def no_commit(code: dict[str, Any], folder: Path) -> None:
    code["git_sha"] = "0123456789" * 4


def an_option(code: dict[str, Any], folder: Path) -> None:
    code["git_sha"] = "--upload-pack=x"


def another_patch(code: dict[str, Any], folder: Path) -> None:
    patch = folder / code["diff"]
    patch.write_text(patch.read_text().replace("scale = 2", "scale = 3"))


def no_patch(code: dict[str, Any], folder: Path) -> None:
    (folder / code["diff"]).unlink()


def a_cut_archive(code: dict[str, Any], folder: Path) -> None:
    archive = folder / code["untracked"]
    archive.write_bytes(archive.read_bytes()[:-20])


def a_patch_elsewhere(code: dict[str, Any], folder: Path) -> None:
    (folder.parent / "other.patch").write_bytes((folder / code["diff"]).read_bytes())
    code["diff"] = "../other.patch"


def a_name_that_leads_out(code: dict[str, Any], folder: Path) -> None:
    code["name"] = "../my project"


def a_patch_that_does_not_fit(code: dict[str, Any], folder: Path) -> None:
    resum(code, folder, diff=(folder / code["diff"]).read_bytes().replace(b"-scale = 1", b"-scale = 7"))


def a_patch_that_leads_out(code: dict[str, Any], folder: Path) -> None:
    lines = ["diff --git a/../../out.py b/../../out.py", "new file mode 100644", "--- /dev/null", "+++ b/../../out.py"]
    resum(code, folder, diff="\n".join([*lines, "@@ -0,0 +1 @@", "+x", ""]).encode())


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (no_commit, r"commit 0123456789\w+ of 'my project' is not in .*; `git -C .* fetch --all` brings it if"),
        (an_option, r"commit --upload-pack=x of 'my project' is not in"),
        (another_patch, r"the uncommitted changes of 'my project' in .* have the sha256"),
        (no_patch, r"the uncommitted changes of 'my project' cannot be read: .*No such file"),
        (a_cut_archive, r"the uncommitted changes of 'my project' cannot be read"),
        (a_patch_elsewhere, r"'../other.patch' is not a plain name"),
        (a_name_that_leads_out, r"'../my project' is not a plain name"),
        (
            a_patch_that_does_not_fit,
            r"git cannot restore commit \w+ of 'my project': error: .*net.py: patch does not apply",
        ),
        (a_patch_that_leads_out, r"git cannot restore commit \w+ of 'my project': error: .*invalid path"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_code_that_differs_from_the_snapshot_is_refused(
    harm: Callable[[dict[str, Any], Path], None], problem: str, project: Path, tmp_path: Path
) -> None:
    dirty(project)
    code = freeze(project, tmp_path / "code")
    harm(code[1], tmp_path / "code")
    with (
        pytest.raises(InputError, match=problem),
        restore_code(code, tmp_path / "code", ["minepkg"], tmp_path / "runs"),
    ):
        pass
    assert not list(tmp_path.rglob("out.py"))
    assert len(git(project, "worktree", "list").splitlines()) == 1


def resum(code: dict[str, Any], folder: Path, *, diff: bytes = b"", archive: bytes = b"") -> None:
    """Make an entry with the digest of its files, as an attacker could."""
    (folder / "made.patch").write_bytes(diff)
    (folder / "made-untracked.tar.gz").write_bytes(gzip.compress(archive))
    code["diff"] = "made.patch" if diff else None
    code["untracked"] = "made-untracked.tar.gz" if archive else None
    code["sha256"] = hashlib.sha256(code["git_sha"].encode() + diff + archive).hexdigest()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 2 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../../out.py")],
        [member("/tmp/lathe-test-out.py")],
        [member(".git/hooks/out.py")],
        [member("minepkg/.GIT/out.py")],
        [member("door", tarfile.SYMTYPE, "../.."), member("door/out.py")],
        [member("door", tarfile.SYMTYPE, "/tmp")],
        [member("door", tarfile.LNKTYPE, "../../out.py")],
        [member("pipe", tarfile.FIFOTYPE)],
    ],
    ids=["climbs", "absolute", "git", "git_in_capitals", "behind_a_link", "link_out", "hard_link", "pipe"],
)
def test_an_archive_writes_nothing_outside_the_worktree(
    members: list[tarfile.TarInfo], project: Path, tmp_path: Path
) -> None:
    code = freeze(project, tmp_path / "code")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for one in [*members, member("kept.py")]:
            archive.addfile(one, io.BytesIO(b"x\n" if one.size else b""))
    code[1]["dirty"] = True
    resum(code[1], tmp_path / "code", archive=buffer.getvalue())
    with restore_code(code, tmp_path / "code", ["minepkg"], tmp_path / "runs") as code_here:
        scratch = code_here.roots[1].parent.parent
        assert (code_here.roots[1] / "kept.py").read_text() == "x\n"
        assert [path for path in scratch.rglob("out.py") if not path.is_relative_to(code_here.roots[1])] == []
        assert not (code_here.roots[1] / "door").is_symlink()
        assert not (code_here.roots[1] / "tmp").exists()
    assert any("an untracked file was left out" in line for line in code_here.problems)
    assert not list(tmp_path.rglob("out.py"))
    assert not Path("/tmp/lathe-test-out.py").exists()
