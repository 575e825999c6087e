"""`lathe new`: writes a project that works at once."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import keyword
import os
import shlex
import shutil
import sys
from pathlib import Path

from experiments.cli.parser import VERSION
from experiments.config import options
from experiments.config.reference.json_schema import write_schemas
from experiments.core.errors import InputError
from experiments.core.files.packages import PACKAGES
from experiments.core.files.paths import user_path

TEMPLATE = Path(__file__).with_name("template")
FILES = {
    "README.md": "README.md",
    "lathe.toml": "lathe.toml",
    "pytest.ini": "pytest.ini",
    "requirements.txt": "requirements.txt",
    "gitignore": ".gitignore",
    "pre-commit.yaml": ".pre-commit-config.yaml",
    "workflow.yaml": ".github/workflows/check.yml",
    "net.py.txt": "PACKAGE/net.py",
    "spirals.py.txt": "PACKAGE/spirals.py",
    "test_training.py.txt": "tests/test_training.py",
    "config.yaml": "conf/config.yaml",
    "model.yaml": "conf/model/net.yaml",
    "data.yaml": "conf/data/spirals.yaml",
    "experiment.yaml": "conf/experiment/spirals.yaml",
    "sweep.yaml": "sweeps/width.yaml",
}
"""The files of a project, by their names in the template."""
SCHEMAS = ("config", "model", "data", "experiment", "sweep")
"""Files of the template whose schema has the same name."""
HYDRA_LINE = "# @package _global_\n"
"""Must be the first line."""
SCHEMA_FOLDER = ".lathe/schema"
NEXT = ("lathe trust .", "lathe check", "lathe run experiment=spirals", "lathe sweep width")
GIT = "git init && git add . && git commit -m 'New project'"
"""Code that is under git can be restored, to reproduce a run."""
TAKEN = {*PACKAGES, "lathe", "tests", "runs", "data", *sys.stdlib_module_names}
"""Names of Lathe, of Python, and of the other folders of a project."""


def new(args: argparse.Namespace) -> int:
    """Write the files of a project, and print what to do next.

    Raises:
        InputError: the name cannot be that of a Python package, the folder is not empty, or it cannot be written.
    """
    folder = user_path(args.folder)
    package = _package_name(folder)
    try:
        if os.path.lexists(folder) and not _is_empty_folder(folder):
            raise InputError([f"{args.folder} exists and is not an empty folder; choose another name"])
        _write(folder, package)
    except OSError as err:
        raise InputError([f"{args.folder} cannot be written ({err.strerror}); choose another folder"]) from err
    print(f"a project in {folder}: a model, a data set, an experiment, a sweep and a test. Next:")
    is_in_git = any((above / ".git").exists() for above in (folder.resolve(), *folder.resolve().parents))
    for step in (f"cd {shlex.quote(str(folder))}", *(() if is_in_git else (GIT,)), *NEXT):
        print(f"  {step}")
    return 0


def _package_name(folder: Path) -> str:
    """The name of the project's package: that of the folder, with `_` for `-`.

    Raises:
        InputError: it is not valid.
    """
    name = folder.absolute().name
    package = name.replace("-", "_")
    if not (package.isidentifier() and package.isascii()) or package.startswith("_"):
        rule = "is no name of a Python package: it begins with a letter, and has only letters, digits, `_` and `-`"
    elif keyword.iskeyword(package) or keyword.issoftkeyword(package):
        rule = "is a keyword of Python, so it cannot be imported"
    elif package in TAKEN or importlib.util.find_spec(package) is not None:
        rule = "is the name of another package or folder, and a name stands for one of them"
    else:
        return package
    raise InputError([f"{name!r} {rule}; choose another name, such as `lathe new my_project`"])


def _is_empty_folder(folder: Path) -> bool:
    """Whether nothing but a new git repository is in a folder."""
    return folder.is_dir() and all(path.name == ".git" for path in folder.iterdir())


def _write(folder: Path, package: str) -> None:
    """Write all files, or none.

    Raises:
        OSError: a file cannot be written.
    """
    entries = {path.partition("/")[0] for path in (*FILES.values(), SCHEMA_FOLDER)}
    is_new = not folder.exists()
    try:
        for source in FILES:
            _write_file(folder, package, source)
        (folder / package / "__init__.py").touch()
        sys.path.append(str(folder.resolve()))  # the schema of the project's own classes is read from their source
        write_schemas(options.groups([(folder / "conf").resolve()]), folder / SCHEMA_FOLDER)
    except BaseException:
        written = [folder] if is_new else [folder / entry.replace("PACKAGE", package) for entry in entries]
        for path in written:
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _write_file(folder: Path, package: str, source: str) -> None:
    path = folder / FILES[source].replace("PACKAGE", package)
    text = (TEMPLATE / source).read_text(encoding="utf-8")
    for placeholder, value in {"PACKAGE": package, "NAME": folder.absolute().name, "VERSION": VERSION}.items():
        text = text.replace(placeholder, value)
    if (schema := source.removesuffix(".yaml")) in SCHEMAS:
        up = os.path.relpath(folder, path.parent)
        line = f"# yaml-language-server: $schema={up}/{SCHEMA_FOLDER}/{schema}.json\n"
        first = HYDRA_LINE if text.startswith(HYDRA_LINE) else ""
        text = first + line + text.removeprefix(first)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
