"""Builds the wheel. All packages are below `lathe`, so the other top-level names, such as `modules`, stay the user's."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("conf", "experiments", "launchers", "modules", "sweeps")
FROM = re.compile(rf"^(\s*)from (?=({'|'.join(PACKAGES)})[. ])", re.MULTILINE)
IMPORT = re.compile(rf"^(\s*)import (?=({'|'.join(PACKAGES)})$)", re.MULTILINE)


def rewrite(source: str) -> str:
    """Import Lathe's packages from `lathe`."""
    return IMPORT.sub(r"\1from lathe import ", FROM.sub(r"\1from lathe.", source))


class WheelLayout(BuildHookInterface[Any]):
    """Writes the files of the wheel into a temporary folder. An editable installation imports from the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="lathe-wheel-"))
        for package in ("lathe", *PACKAGES):
            to = self.folder if package == "lathe" else self.folder / package
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(Path(self.root, package), to, ignore=ignored, dirs_exist_ok=True)
        for path in self.folder.rglob("*.py"):
            path.write_text(rewrite(path.read_text(encoding="utf-8")), encoding="utf-8")
        build_data["force_include"][str(self.folder)] = "lathe"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            shutil.rmtree(self.folder)
