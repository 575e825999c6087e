from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from experiments.core.files.packages import PROJECT_ROOT
from experiments.trial import code_snapshot as snapshot_module
from experiments.trial.code_snapshot import take_snapshot
from experiments.trial.environment import describe_machine, installed_packages


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, "-C", str(folder), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    (root / "train.py").write_text("print(1)\n")
    (root / "gone.py").write_text("x\n")
    (root / "moved.py").write_text("a\nb\nc\n" * 20)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "picture.bin").write_bytes(bytes(range(256)) * 4)
    (root / ".gitignore").write_text("*.log\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def restore(root: Path, code: dict[str, object], folder: Path, target: Path) -> None:
    """Restore as `lathe reproduce` does, but with plain git and tar commands."""
    git(root.parent, "clone", "-q", str(root), str(target))
    git(target, "checkout", "-q", str(code["git_sha"]))
    if code["diff"]:
        git(target, "apply", "--binary", str(folder / str(code["diff"])))
    if code["untracked"]:
        subprocess.run(["tar", "-xzf", folder / str(code["untracked"]), "-C", target], check=True)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Content and kind of every file that git does not ignore."""
    names = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    entries: dict[str, tuple[object, ...]] = {}
    for name in filter(None, names):
        path = root / name
        if path.is_symlink():
            entries[name] = ("link", os.readlink(path))
        elif path.is_file():
            entries[name] = ("file", path.read_bytes(), path.stat().st_mode & 0o111)
    return entries


def test_a_snapshot_restores_the_tree_onto_a_clean_clone(checkout: Path, tmp_path: Path) -> None:
    (checkout / "train.py").write_text("print(2)")  # no newline at its end
    (checkout / "gone.py").unlink()
    (checkout / "moved.py").rename(checkout / "elsewhere.py")
    git(checkout, "add", "-A", "elsewhere.py")
    (checkout / "run.sh").chmod(0o755)
    (checkout / "picture.bin").write_bytes(os.urandom(1000))
    (checkout / "ä new [1] file.py").write_text("new\n")
    (checkout / "deep" / "er").mkdir(parents=True)
    (checkout / "deep" / "er" / "tool").write_bytes(b"\0\1")
    (checkout / "deep" / "er" / "tool").chmod(0o755)
    (checkout / "link").symlink_to("train.py")
    (checkout / "ignored.log").write_text("no")
    # Settings of a user that change what `git diff` prints.
    for name, value in {"color.ui": "always", "diff.noprefix": "true", "diff.renames": "copies"}.items():
        git(checkout, "config", name, value)
    git(checkout, "config", "diff.external", "/bin/false")
    warnings: list[str] = []
    code = take_snapshot(checkout, tmp_path / "code", warnings)
    assert warnings == []
    assert (code["dirty"], code["branch"], len(code["git_sha"])) == (True, "main", 40)
    restore(checkout, code, tmp_path / "code", tmp_path / "clone")
    assert tree(tmp_path / "clone") == tree(checkout)


def test_a_clean_checkout_needs_only_its_commit(checkout: Path, tmp_path: Path) -> None:
    code = take_snapshot(checkout, tmp_path / "code", [])
    sha = git(checkout, "rev-parse", "HEAD").strip()
    assert code == {
        "name": "project",
        "sha256": hashlib.sha256(sha.encode()).hexdigest(),
        "git_sha": sha,
        "branch": "main",
        "dirty": False,
        "diff": None,
        "untracked": None,
    }
    assert not (tmp_path / "code").exists()


def test_the_environment_of_a_git_hook_is_ignored(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    (checkout / "train.py").write_text("print(3)\n")
    assert take_snapshot(checkout, tmp_path / "code", [])["dirty"]


def test_large_files_are_left_out_with_a_warning(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_module, "MAX_SNAPSHOT_MB", 0.01)
    (checkout / "picture.bin").write_bytes(os.urandom(20_000))
    (checkout / "train.py").write_text("print(4)\n")
    (checkout / "a_weights.bin").write_bytes(b"w" * 20_000)
    (checkout / "z_small.py").write_text("z\n")
    warnings: list[str] = []
    code = take_snapshot(checkout, tmp_path / "code", warnings)
    assert len(warnings) == 2
    assert all("larger than 0 MB, so it was left out; commit it, or list it in .gitignore" in line for line in warnings)
    assert "picture.bin" in warnings[0]
    assert "a_weights.bin" in warnings[1]
    assert code["dirty"]
    restore(checkout, code, tmp_path / "code", tmp_path / "clone")
    assert (tmp_path / "clone" / "train.py").read_text() == "print(4)\n"
    assert (tmp_path / "clone" / "z_small.py").exists()


def test_files_with_secrets_are_left_out_with_a_warning(checkout: Path, tmp_path: Path) -> None:
    token = "ghp_" + "a1B2" * 9
    (checkout / ".env").write_text("X=1\n")
    (checkout / "key.pem").write_text("k\n")
    (checkout / "notes.txt").write_text(f"my token is {token}\n")
    (checkout / "train.py").write_text(f"TOKEN = '{token}'\n")
    (checkout / "gone.py").write_text("y\n")
    warnings: list[str] = []
    code = take_snapshot(checkout, tmp_path / "code", warnings)
    assert sorted(line.split(" seems ")[0] for line in warnings) == [
        str(checkout / name) for name in (".env", "key.pem", "notes.txt", "train.py")
    ]
    assert code["untracked"] is None
    patch = (tmp_path / "code" / code["diff"]).read_bytes()
    assert token.encode() not in patch
    assert b"gone.py" in patch


def test_the_archive_does_not_record_file_owners(checkout: Path, tmp_path: Path) -> None:
    (checkout / "new.py").write_text("n\n")
    code = take_snapshot(checkout, tmp_path / "code", [])
    with tarfile.open(tmp_path / "code" / code["untracked"]) as archive:
        assert [(info.uname, info.gname, info.uid) for info in archive] == [("", "", 0)]


def test_runs_are_not_part_of_the_code(checkout: Path, tmp_path: Path) -> None:
    (checkout / "runs" / "single").mkdir(parents=True)
    (checkout / "runs" / "single" / "trial.yaml").write_text("t\n")
    code = take_snapshot(checkout, tmp_path / "code", [], checkout / "runs")
    assert not code["dirty"]


DUBIOUS = """#!/bin/sh
echo "fatal: detected dubious ownership in repository at '$3'" >&2
printf 'To add an exception for this directory, call:\\n\\n\\tgit config --global --add safe.directory %s\\n' "/mine" >&2
exit 128
"""
HANGS = "#!/bin/sh\nexec sleep 60\n"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            DUBIOUS,
            r"dubious ownership in .*; if you trust that folder, run `git config --global --add safe\.directory /mine`",
        ),
        (HANGS, r"\(`git rev-parse` has not ended for 0\.2 s\); see `git -C "),
        ("no git", r"\(git is not installed\); install git"),
        ("no head", r"\(not a git repository .*\); see `git -C "),
        ("lost worktree", r"\(not a git repository: /gone\); see `git -C "),
        ("bare", r"\(this operation must be run in a work tree\); see `git -C "),
        ("no commit", "git finds no commit there; commit it"),
        ("broken branch", "git finds no commit there; commit it"),
        ("plain", "is not in a git checkout, so its uncommitted code cannot be restored later; put it under git"),
        ("none", None),
    ],
)
def test_code_that_git_cannot_record_is_reported_with_a_way_out(
    fault: str, expected: str | None, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_module.find_checkout_root(PROJECT_ROOT)  # its answer is kept
    (checkout / "minelab").mkdir()
    (checkout / "minelab" / "__init__.py").touch()
    monkeypatch.syspath_prepend(checkout)
    if fault in (DUBIOUS, HANGS, "no git"):
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv(
            "PATH", str(tmp_path / "bin") if fault == "no git" else f"{tmp_path}/bin:{os.environ['PATH']}"
        )
        if fault == HANGS:
            monkeypatch.setattr("experiments.core.git.READ_TIMEOUT_S", 0.2)
            monkeypatch.setattr(snapshot_module, "READ_TIMEOUT_S", 0.2)
        if fault != "no git":
            (tmp_path / "bin" / "git").write_text(fault)
            (tmp_path / "bin" / "git").chmod(0o755)
    elif fault == "no head":
        (checkout / ".git" / "HEAD").unlink()
    elif fault == "broken branch":
        (checkout / ".git" / "refs" / "heads" / "main").write_text("nonsense\n")
    elif fault == "bare":
        git(checkout, "config", "core.bare", "true")
    elif fault != "none":
        shutil.rmtree(checkout / ".git")
        if fault == "lost worktree":
            (checkout / ".git").write_text("gitdir: /gone\n")
        elif fault == "no commit":
            git(checkout, "init", "-q")
    warnings: list[str] = []
    entries = snapshot_module.take_snapshots([], ["minelab"], tmp_path / "code", warnings)
    own = [line for line in warnings if str(checkout) in line]
    assert entries[-1]["name"] in ("project", "minelab")
    assert entries[-1]["sha256"]
    assert (len(own), expected is None) in ((1, False), (0, True)), warnings
    assert expected is None or re.search(expected, own[0]), own


def test_two_checkouts_of_one_name_do_not_overwrite_each_other(checkout: Path, tmp_path: Path) -> None:
    (checkout / "train.py").write_text("print(5)\n")
    codes = [take_snapshot(checkout, tmp_path / "code", []) for _ in range(2)]
    assert [code["diff"] for code in codes] == ["project.patch", "project-2.patch"]


def test_an_unreadable_file_is_left_out_with_a_warning(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "init", "-q", "nested")
    (checkout / "nested" / "inner.py").write_text("i\n")
    warnings: list[str] = []
    take_snapshot(checkout, tmp_path / "code", warnings)
    assert [("nested" in line, "left out" in line) for line in warnings] == [(True, True)]


def test_outside_git_the_code_is_a_digest_of_its_sources(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    (root / ".cache").mkdir(parents=True)
    (root / "runs" / "single").mkdir(parents=True)
    (root / "train.py").write_text("1\n")

    def digest() -> object:
        code = take_snapshot(root, tmp_path / "code", [], root / "runs")
        assert (code["name"], code["git_sha"]) == ("plain", None)
        return code["sha256"]

    first = digest()
    for other in (".cache/x.py", "runs/single/trial.yaml", "data.bin"):
        (root / other).write_text("2\n")
    assert digest() == first
    (root / "train.py").write_text("2\n")
    assert digest() != first


def test_the_built_in_packages_are_always_part_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.yaml").write_text("a: 1")
    house, mine = snapshot_module.take_snapshots([str(tmp_path / "mine")], [], tmp_path / "code", [])
    assert (house["name"], mine["name"], mine["git_sha"]) == (PROJECT_ROOT.name, "mine", None)


def test_a_repository_of_configurations_cannot_make_git_run_its_programs(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "config", "core.fsmonitor", f"touch {tmp_path / 'ran'}; false")
    git(checkout, "config", "filter.evil.clean", f"touch {tmp_path / 'ran'}; cat")
    (checkout / ".gitattributes").write_text("* filter=evil\n")
    (checkout / "train.py").write_text("print(3)\n")
    snapshot_module.take_snapshots([str(checkout)], [], tmp_path / "code", [])
    assert not (tmp_path / "ran").exists()


def test_installed_built_in_packages_are_digested_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(snapshot_module, "OWN_FOLDERS", (tmp_path / "experiments",))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "run.py").write_text("1\n")
    first = take_snapshot(tmp_path, tmp_path / "code", [])
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "huge.py").write_text("1\n")
    assert take_snapshot(tmp_path, tmp_path / "code", []) == first


def test_a_trusted_package_is_part_of_the_code_unless_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_parts").mkdir()
    (tmp_path / "my_parts" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_init").mkdir()
    (tmp_path / "no_init" / "model.py").touch()
    entries = snapshot_module.take_snapshots([], ["my_parts", "no_init", "torch", "not_there"], tmp_path / "code", [])
    assert [code["name"] for code in entries[1:]] == ["my_parts", "no_init"]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY", True),
        ("api_key: 0123456789abcdef", True),
        ('PASSWORD = "correct-horse"', True),
        ("# MY_API_KEY=0123456789abcdef0123", True),
        ("password = getpass.getpass()", False),
        ("api_key: str | None = None", False),
        ('token = os.environ["API_TOKEN"]', False),
        ("num_tokens: 4096", False),
    ],
)
def test_a_file_that_assigns_a_secret_is_left_out(checkout: Path, tmp_path: Path, text: str, secret: bool) -> None:
    (checkout / "settings.ini").write_text(f"first\n{text}\nlast\n")
    warnings: list[str] = []
    code = take_snapshot(checkout, tmp_path / "code", warnings)
    assert (code["untracked"] is None, bool(warnings)) == (secret, secret)


def test_packages_and_machine_are_recorded() -> None:
    assert installed_packages()["torch"].startswith("2.13")
    assert describe_machine().keys() == {"python", "host", "platform", "cpu_cores"}
