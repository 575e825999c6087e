"""The project of the current folder: what its `lathe.toml`, or `[tool.lathe]` in its `pyproject.toml`, sets for each command."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.core.errors import InputError, did_you_mean

FILES = ("lathe.toml", "pyproject.toml")
LISTS = ("conf", "sweeps", "trust")
TEXTS = ("runs_dir", "data_root")
KEYS = (*LISTS, *TEXTS)
ELSEWHERE = {
    "defaults": "write them into `config.yaml` in your folder of options, such as `defaults: [launcher: slurm]`"
}
"""Where a setting is that is no key of this file."""
VARIABLES = {"runs_dir": "LATHE_RUNS", "data_root": "LATHE_DATA", "sweeps": "LATHE_SWEEPS"}


@dataclass(frozen=True)
class Project:
    """A project file and what it sets."""

    file: Path
    settings: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def digest(self) -> str:
        """The sha256 of the settings. Another setting needs trust again; other parts of the file do not count."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def folders(self, key: str) -> list[str]:
        """The absolute paths of a setting with folders."""
        return [str(self.folder / Path(name).expanduser()) for name in _as_list(self.settings.get(key, []))]

    @property
    def trusted(self) -> list[str]:
        """The packages and folders that the project trusts."""
        return [*_as_list(self.settings.get("trust", [])), *self.folders("conf"), *self.folders("sweeps")]

    def check(self) -> None:
        """
        Raises:
            InputError: a key is unknown or has a value of another type.
        """
        problems = [
            f"{self.file}: [tool.lathe] has no key {key!r}; {ELSEWHERE.get(key) or did_you_mean(key, KEYS)}"
            for key in self.settings
            if key not in KEYS
        ]
        for key in KEYS:
            value = self.settings.get(key, "")
            values = _as_list(value) if key in LISTS else [value]
            if not all(isinstance(each, str) for each in values):
                wanted = "a text or a list of texts" if key in LISTS else "a text"
                problems.append(f'{self.file}: {key}={value!r} is not {wanted}; write {key} = "NAME"')
        if problems:
            raise InputError(problems)


def find_project(start: Path | None = None) -> Project | None:
    """The project of a folder: the first file with settings in it or in a folder above; None without one.

    Raises:
        InputError: the file is not valid TOML.
    """
    try:
        start = start or Path.cwd()
    except FileNotFoundError:  # the current folder no longer exists
        return None
    for folder in (start, *start.parents):
        for name in FILES:
            if (folder / name).is_file() and (settings := _read(folder / name)) is not None:
                return Project(folder / name, settings)
    return None


def find_trusted_project() -> Project | None:
    """The project of the current folder, if you have trusted its settings.

    Raises:
        InputError: its settings are not valid.
    """
    project = find_project()
    if project is None or not is_trusted(project):
        return None
    project.check()
    return project


def set_variables(project: Project) -> None:
    """Set the variables that are not set, and let Python find the project; also for child processes."""
    for key, variable in VARIABLES.items():
        if key in project.settings and not os.environ.get(variable):
            os.environ[variable] = os.pathsep.join(project.folders(key))
    folder = str(project.folder)
    if _as_list(project.settings.get("trust", [])) and folder not in sys.path:
        sys.path.append(folder)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [inherited, folder]))


def add_arguments(project: Project, args: argparse.Namespace) -> None:
    """Add the folders and packages of a project to those of a command line."""
    if hasattr(args, "config_dir"):
        args.config_dir = list(dict.fromkeys([*project.folders("conf"), *args.config_dir]))
    if hasattr(args, "trust"):
        args.trust = list(dict.fromkeys([*project.trusted, *args.trust]))


def untrusted_note(project: Project) -> str:
    """What to tell about a project whose settings do not count yet."""
    return (
        f"the settings of {project.file} do not count, because they can name code to run; if you trust this project: "
        f"`lathe trust {shlex.quote(str(project.folder))}`"
    )


def report_untrusted(project: Project, args: argparse.Namespace) -> None:
    """Say that the settings of a project do not count yet, if the command would use them.

    Raises:
        InputError: the command would check nothing of the project.
    """
    if args.command == "check" and not args.config_dir:
        raise InputError([untrusted_note(project)], "`lathe check`")
    if hasattr(args, "config_dir") or hasattr(args, "trust"):
        print(f"note: {untrusted_note(project)}", file=sys.stderr)


def trust(args: argparse.Namespace) -> int:
    """Record that the settings of a project may count on this machine.

    Raises:
        InputError: there is no project, or its settings are not valid, or the record cannot be written.
    """
    import yaml

    from experiments.core.atomic import write_text
    from experiments.core.files.paths import user_path

    folder = user_path(args.folder).resolve()
    project = find_project(folder)
    if project is None:
        raise InputError(
            [f"{folder} has no lathe.toml and no pyproject.toml with [tool.lathe]; add one, or name its folder"]
        )
    project.check()
    known = {**_read_known(), str(project.file): project.digest}
    path = _record()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump(known))
    except OSError as err:
        raise InputError([f"{path} cannot be written ({err.strerror}); make its folder writable"]) from err
    print(f"trusted: {project.file}")
    for key, value in project.settings.items():
        print(f"  {key}: {', '.join(_as_list(value))}")
    return 0


def is_trusted(project: Project) -> bool:
    """Whether you have trusted these settings of this file."""
    return _read_known().get(str(project.file)) == project.digest


def _record() -> Path:
    """The file with the projects that you trust on this machine: the sha256 of the settings by the path of the file."""
    from experiments.config.allowlist import settings_file

    return settings_file().with_name("projects.yaml")


def _read_known() -> dict[str, str]:
    import yaml

    from launchers.ownership import find_foreign_owner, find_squatter

    path = _record()
    if not path.is_file() or find_foreign_owner(path.resolve()) or find_squatter(path.parent.resolve()):
        return {}
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {str(key): str(value) for key, value in known.items()} if isinstance(known, dict) else {}


def _read(path: Path) -> dict[str, Any] | None:
    """The settings of a file; None if it has none or cannot be read.

    Raises:
        InputError: it has settings, but is no valid TOML.
    """
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    try:
        content = tomllib.loads(text)
    except ValueError as err:
        if path.name == FILES[0] or "[tool.lathe" in text:
            raise InputError([f"{path} is not valid TOML: {err}; correct that line"]) from err
        return None
    settings = content if path.name == FILES[0] else content.get("tool", {}).get("lathe")
    return settings if isinstance(settings, dict) else None


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]
