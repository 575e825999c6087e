"""Run every example of the documentation: write its files and run its commands in page order, with an empty store."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import skip_without_slurm
from tests.support.preloaded import make_command
from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("**/*.md")), ROOT / "README.md"]
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(page: Path) -> list[tuple[str, str, str]]:
    return FENCE.findall(page.read_text(encoding="utf-8"))


def _sessions(text: str) -> list[tuple[str, str]]:
    """Commands after ``$ `` with their expected output, in which ``...`` matches anything."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _pattern(shown: str, *, any_number: bool) -> str:
    """A pattern of the words in their order. With ``any_number``, numbers match any number: they vary between machines."""
    words = (re.escape(word).replace(re.escape("..."), ".*?") for word in shown.split())
    pattern = r"\s+".join(
        re.sub(r"\d[\d\\.,]*", lambda _: r"[\d.,e-]+", word) if any_number else word for word in words
    )
    return pattern.replace(r"\s+.*?\s+", r"\s+(?:.*?\s+)?")  # a `...` alone also matches nothing


@pytest.fixture(autouse=True)
def _stop_clusters() -> Iterator[None]:
    """Stop the clusters that a page has started if the page fails before it stops them."""
    yield
    for page in PAGES:
        for folder in re.findall(r"^\$ lathe cluster up .*--dir (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            lathe = [sys.executable, "-P", "-m", "experiments.cli", "cluster"]
            if Path(folder).exists():
                subprocess.run([*lathe, "down", "--dir", folder], timeout=PATIENCE_S, check=True)


@pytest.fixture(scope="session")
def lathe_command(preloaded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A command `lathe` that has done its imports: they would take most of the time of every page."""
    path = tmp_path_factory.mktemp("bin") / "lathe"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(make_command(preloaded))} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=lambda page: page.stem)
def test_page_examples_produce_the_shown_output(
    page: Path, tmp_path: Path, empty_store: Path, lathe_command: Path
) -> None:
    if "$ lathe cluster up" in page.read_text(encoding="utf-8"):
        skip_without_slurm()
    path = f"{lathe_command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "LATHE_RUNS": "runs", "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")  # creating it takes seconds
    folder = tmp_path
    for language, name, text in _blocks(page):
        if name:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        elif language == "console":
            for command, shown in _sessions(text):
                if command.startswith("cd "):
                    folder /= command.removeprefix("cd ")
                    continue
                done = subprocess.run(
                    ["bash", "-c", command], cwd=folder, env=environment, text=True, timeout=PATIENCE_S, check=False,
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
                assert done.returncode == 0, f"{command}\n{done.stdout}"
                plain = " ".join(re.sub("[│┌┐└┘├┤─┬┴┼]", " ", done.stdout).split())
                pattern = _pattern(shown, any_number=page.stem == "README")
                assert re.search(pattern, plain, re.DOTALL), f"{command}\n{done.stdout}"
        elif language == "python" and not name:
            subprocess.run([sys.executable, "-c", text], cwd=folder, env=environment, timeout=PATIENCE_S, check=True)


def test_links_between_pages_exist() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}, which does not exist"
