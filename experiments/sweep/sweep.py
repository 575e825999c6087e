"""A frozen sweep on disk: the spec, the frozen code and configurations, and the ledger of its trials."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.components.instantiate import instantiate, make_own_launcher
from experiments.config.validate import check_config
from experiments.core.errors import InputError, did_you_mean
from experiments.core.files.paths import user_path
from experiments.core.files.read_file import DamagedFileError
from experiments.core.runs_dir import choose_runs_dir
from experiments.launch.own_launcher import complete_executor
from experiments.sweep.ledger import Entry, Ledger
from experiments.sweep.strategies.make_strategy import is_adaptive
from experiments.sweep.templates import Templates, read_spec
from experiments.trial.run_files import read_provenance
from experiments.trial.trial import Trial
from launchers.base import Executor

if TYPE_CHECKING:
    from experiments.sweep.study import Study


@dataclass(frozen=True)
class Sweep:
    """One sweep in its folder: `sweep.yaml`, `templates.json`, `ledger.jsonl`, `code/`, `workers/`, a run folder a trial."""

    folder: Path
    trust: tuple[str, ...] = ()
    """Packages that the user trusts, from the command line and the user's settings; never read from the folder."""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The spec, with all keys of `experiments.config.schema.SweepSchema`."""
        return read_spec(self.folder)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Origin of the sweep, shared by all its trials."""
        provenance = read_provenance(self.folder)
        if missing := [name for name in ("run_key", "config_dirs") if provenance.get(name) is None]:
            raise DamagedFileError(self.folder / "provenance.yaml", f"'{missing[0]}' is missing")
        return provenance

    @property
    def key(self) -> str:
        """Unique key, which also differs from that of a deleted sweep with the same name."""
        return str(self.provenance["run_key"])

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of one of its trials; hardware, launcher and tracking are the same in all."""
        return self.templates().all[0].config

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def runs_dir(self) -> Path:
        return self.folder.parent

    def ledger(self) -> Ledger:
        """A new view of its ledger."""
        return Ledger(self.folder)

    @property
    def is_adaptive(self) -> bool:
        """Whether workers ask the strategy for the next point; otherwise all points are known from the start."""
        return is_adaptive(self.spec["strategy"])

    def templates(self) -> Templates:
        """The frozen configurations that points are filled into."""
        return Templates.load(self.folder, self.trust, self.provenance["config_dirs"])

    def check(self) -> None:
        """Check its configurations before anything in them is built.

        Raises:
            ConfigError: with every problem.
        """
        for template in self.templates().all:
            check_config(template.config, self.trust, f"sweep '{self.name}'", with_rules=False)

    def study(self) -> Study | None:
        """The study that asks for points and prunes; None if the sweep needs none."""
        if not self.is_adaptive and self.spec["pruner"] is None:
            return None
        from experiments.sweep.study import Study

        return Study(self.folder, self.spec, trust=self.trust)

    def executor(self) -> Executor:
        """The executor of its workers.

        Raises:
            InputError: the launcher is not a valid one, starts no workers, or its package is not trusted.
        """
        node = self.config["launcher"]
        return complete_executor(instantiate(node, "launcher", self.trust), node["_target_"])

    def observer(self) -> Executor | None:
        """Asks about its workers and cancels them; None unless the launcher is one of Lathe's.

        It is built without the arguments in the folder, which may come from someone else.
        """
        observer: Executor | None = make_own_launcher(self.config["launcher"])
        return observer

    def trial(self, entry: Entry) -> Trial:
        """The run of a trial; its folder is created when it is first claimed."""
        return Trial(self.folder / entry.id)


def find_by_full_name(name: str, runs_dir: Path, trust: Sequence[str] = ()) -> Sweep | None:
    """Find a sweep by its full name or folder.

    Args:
        name: of the sweep.
        runs_dir: folder of the runs.
        trust: packages that the user trusts.
    """
    for folder in (user_path(name), runs_dir / name):
        if (folder / "sweep.yaml").is_file():
            return Sweep(folder.resolve(), tuple(trust))
    return None


def find_sweep(name: str, runs_dir: Path, trust: Sequence[str] = ()) -> Sweep:
    """Find a sweep by folder, name or the beginning of its name.

    Args:
        name: what the user wrote.
        runs_dir: folder of the runs.
        trust: packages that the user trusts.

    Raises:
        InputError: no sweep matches, or more than one does.
    """
    given = user_path(name)
    if (given / "sweep.yaml").is_file():
        return Sweep(given.resolve(), tuple(trust))
    known = {path.parent.name: path.parent for path in runs_dir.glob("*/sweep.yaml")}
    matches = [known[name]] if name in known else [known[sweep] for sweep in known if sweep.startswith(name)]
    if len(matches) == 1:
        return Sweep(matches[0].resolve(), tuple(trust))
    if matches:
        names = ", ".join(sorted(path.name for path in matches))
        raise InputError([f"sweep '{name}' is not unique in {runs_dir}: {names}; write more of it"])
    raise InputError([f"there is no sweep '{name}' in {runs_dir}; {did_you_mean(name, known)}"])


def format_reference(sweep: Sweep) -> str:
    """How to name a sweep in a shell command: its name in the default folder of runs, else its folder, quoted if need be."""
    is_default = sweep.runs_dir.resolve() == choose_runs_dir().resolve()
    return shlex.quote(sweep.name if is_default else str(sweep.folder))
