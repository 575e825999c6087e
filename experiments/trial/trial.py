"""A frozen trial on disk: its configuration, its code and its outcome."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.config.allowlist import trusted
from experiments.config.rules.adapter import NO_ADAPTER
from experiments.core import renamed
from experiments.core.atomic import write_text
from experiments.core.data_files import find_data_folder
from experiments.core.errors import InputError, did_you_mean
from experiments.core.files.paths import user_path
from experiments.core.files.read_file import MissingFileError, read_yaml_map
from experiments.core.runs_dir import SINGLE, choose_runs_dir, make_ignored
from experiments.core.secrets import resolve
from experiments.run.annotations import read_given_name
from experiments.run.journal import attempt_folders
from experiments.run.state import read_outcome
from experiments.trial.code_copy import digest_packages
from experiments.trial.code_snapshot import take_snapshots
from experiments.trial.debug_run import list_notes
from experiments.trial.environment import describe_machine, installed_packages
from experiments.trial.initial_weights import copy_weights, get_initial_weights, without_newer
from experiments.trial.own_runs import remember_runs_dir
from experiments.trial.run_files import read_config, read_provenance
from launchers.ownership import find_squatter

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment


@dataclass(frozen=True)
class Trial:
    """One frozen configuration in its run folder: `trial.yaml`, `provenance.yaml`, `code/`, `attempts/`, `checkpoints/`."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration; only `${oc.env:NAME}` is resolved later, by the process that needs it.

        Raises:
            DamagedFileError: its file is damaged.
        """
        return read_config(self.folder)

    def read_attempt_config(self, attempt: int) -> dict[str, Any]:
        """The configuration of one attempt: that of the trial, with the changes of a resume (`resume.CHANGEABLE`)."""
        try:
            changed = read_yaml_map(self.folder / "attempts" / str(attempt) / "changed.yaml")
        except MissingFileError:
            changed = {}
        return {**self.config, **renamed.upgrade(changed)}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Origin of the trial: trial_id, run_key, created, overrides, source, code, code_sha256, host, python, packages, data.

        The trials of a sweep share most of it; the shared part is in the folder of the sweep.

        Raises:
            DamagedFileError: one of its files is damaged.
        """
        try:
            provenance = read_provenance(self.folder.parent)
        except MissingFileError:
            provenance = {}
        provenance |= read_provenance(self.folder)
        for key in ("code", "config_dirs", "trust", "overrides", "warnings"):
            provenance[key] = provenance.get(key) or []
        if provenance.get("overrides"):
            names = renamed.renames(self.config)
            provenance["overrides"] = renamed.upgrade_overrides(provenance["overrides"], names)
        return provenance

    @property
    def id(self) -> str:
        return str(self.provenance["trial_id"])

    @property
    def evaluates(self) -> dict[str, Any] | None:
        """Which weights and data an evaluation of `lathe evaluate` is about; None for a run."""
        evaluates: dict[str, Any] | None = self.provenance.get("evaluates")
        return evaluates

    @property
    def runs_dir(self) -> Path:
        return self.folder.parent.parent

    @property
    def reference(self) -> str:
        """The name of this run in a shell command: its id in the default folder of runs, else its path, quoted if need be."""
        is_default = self.runs_dir.resolve() == choose_runs_dir().resolve()
        return self.folder.name if is_default else shlex.quote(str(self.folder))

    def attempts(self) -> list[Path]:
        """Folders of the attempts, first to last."""
        return attempt_folders(self.folder)

    def outcome(self) -> dict[str, Any] | None:
        """What the launcher recorded about the last attempt (status, attempt, reason, ended); None while it runs."""
        return read_outcome(self.folder)


EXCLUDED = (
    "name", "description", "tags", "runs_dir", "data_root", "data.root", "launcher", "tracking", "resume", "num_data_workers",
    "profile", "system_every_s", "stop_timeout_s", "notify",
    "hardware.cpu_cores", "hardware.memory_gb", "hardware.peak_tflops", "hardware.mfu",
    "hardware.link_gb_per_s", "hardware.link_latency_us", "hardware.network_gb_per_s", "hardware.network_latency_us",
    "hardware.slurm",
)  # fmt: skip

NAME_LINE = re.compile(r"^name: (.+)$", re.MULTILINE)
"""Of `trial.yaml`. A search for a name reads it in all runs, and parsing the whole file takes 30 ms (2026-11, two busy cores)."""
HUGGING_FACE = "modules.model.pretrained.hugging_face.HuggingFace"
NEWER = {
    "task": {"_target_": "modules.task.supervised.Supervised"}, "adapter": NO_ADAPTER, "callback": {}, "gradient": {},
    "fast_dev_run": False, "overfit_batches": None, "evaluation_sets": {}, "user": {},
}  # fmt: skip
NEWER_DATA: dict[str, Any] = {"group_pattern": None, "on_bad_example": "error", "skipped": []}
"""Keys that the first version did not have, of the root and of the data. With these values they change nothing, so they do not
count."""


def trial_id(config: dict[str, Any]) -> str:
    """Ten hexadecimal digits: a hash of the keys that determine the result.

    Names, paths, launcher, tracking, and the speed and size of a machine do not count.
    """
    hashed = {key: value for key, value in config.items() if key not in EXCLUDED}
    for part in ("data", "hardware"):
        hashed[part] = {key: value for key, value in config[part].items() if f"{part}.{key}" not in EXCLUDED}
    if "tokenizer_sha256" in hashed["data"]:  # what counts of the tokenizer is its content, not its folder
        hashed["data"].pop("tokenizer", None)
    if "columns" in hashed["data"]:  # what it chose are words of these
        hashed["data"].pop("max_words", None)
    if hashed["data"].get("fold", ...) is None:  # without cross-validation; earlier versions had no such keys
        hashed["data"] = {key: value for key, value in hashed["data"].items() if key not in ("fold", "num_folds")}
    hashed["data"] = {
        key: value for key, value in hashed["data"].items() if key not in NEWER_DATA or value != NEWER_DATA[key]
    }
    if config["model"].get("_target_") == HUGGING_FACE:  # what counts of the folder is its config.json
        hashed["model"] = {key: value for key, value in config["model"].items() if key != "folder"}
    if not get_initial_weights(config):
        hashed.pop("init_from", None)
    else:
        hashed["init_from"] = without_newer(config["init_from"])
    if not config.get("freeze"):
        hashed.pop("freeze", None)
    hashed = {key: value for key, value in hashed.items() if key not in NEWER or value != NEWER[key]}
    canonical = json.dumps(renamed.original(hashed), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def freeze(experiment: Experiment) -> Trial:
    """Write an experiment, with everything that it depends on, to a new run folder.

    The name of the folder is the id of the trial; a second run of the same configuration gets ``<id>-2``.

    Raises:
        InputError: the folder cannot be written.
    """
    config = {**experiment.config, "resume": False}
    runs_dir = resolve_runs_dir(config)
    identity = trial_id(config)
    with create_run_folder(runs_dir, f"{SINGLE}/{identity}") as folder:
        write_trial(folder, config, {"trial_id": identity, **make_provenance(experiment, folder, runs_dir)})
    return Trial(folder)


def write_trial(folder: Path, config: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Write the files that make a folder a run.

    Raises:
        OSError: the folder cannot be written.
        InputError: the initial weights cannot be found.
    """
    if (named := get_initial_weights(config)) and "initial" not in provenance:
        provenance = {
            **provenance,
            "initial": copy_weights(named, lambda run: find_trial(run, resolve_runs_dir(config)).folder, folder),
        }
    write_text(folder / "provenance.yaml", to_yaml(provenance))
    # Last, because a folder with this file is a run.
    write_text(folder / "trial.yaml", to_yaml(config))


def to_yaml(values: dict[str, Any]) -> str:
    """Dump plain values with libyaml; the Python emitter takes four times as long (2026-11)."""
    text: str = yaml.dump(values, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
    return text


def make_provenance(experiment: Experiment, folder: Path, runs_dir: Path) -> dict[str, Any]:
    """The provenance of an experiment; the uncommitted changes of its checkouts are written to ``code`` in the folder."""
    warnings = list_notes(experiment.config)
    trust = trusted(experiment.trust)
    code = take_snapshots(experiment.config_dirs, trust, folder / "code", warnings, runs_dir)
    return {
        "run_key": uuid.uuid4().hex,
        "created": time.time(),
        "overrides": list(experiment.overrides),
        "choices": dict(experiment.choices),
        **({"source": experiment.source} if experiment.source else {}),
        "config_dirs": list(experiment.config_dirs),
        "trust": list(experiment.trust),
        "code": code,
        "code_sha256": digest_packages(trust, experiment.config_dirs, runs_dir),
        **describe_machine(),
        "packages": installed_packages(),
        "seeds": {"seed": experiment.config["seed"]},
        "data": fingerprint_data(experiment.config["data"]),
        "warnings": warnings,
    }


def fingerprint_data(data: dict[str, Any]) -> dict[str, Any]:
    """Identify data before it is read: by the expected checksums, else by names and sizes of its files.

    A data set without files belongs to a package, whose version `installed_packages` records.
    """
    if data.get("files"):
        return {"files": data["files"]}
    if "root" not in data or "folder" not in data:
        return {"files": None}
    folder = find_data_folder(data)
    digest, num_files = hashlib.sha256(), 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            size = path.stat().st_size if path.exists() else 0  # a link may lead to nothing
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\n".encode(errors="surrogateescape"))
            num_files += 1
    return {"num_files": num_files, "names_and_sizes_sha256": digest.hexdigest()}


def find_code_changes(trial: Trial, trust: Sequence[str] = ()) -> list[str]:
    """A line for each checkout whose code has changed since the trial was frozen."""
    frozen = trial.provenance["code"]
    known = {entry.get("sha256") for entry in frozen}
    with tempfile.TemporaryDirectory() as scratch:
        now = take_snapshots(trial.provenance["config_dirs"], trusted(trust), Path(scratch), [], trial.runs_dir)
    return [
        f"the code of '{entry['name']}' has changed since this run was frozen, so its curves may differ from the earlier ones; "
        f"the earlier code is recorded in {trial.folder / 'provenance.yaml'}"
        for entry in now
        if entry["sha256"] not in known and entry["name"] in {before["name"] for before in frozen}
    ]


def resolve_runs_dir(config: dict[str, Any]) -> Path:
    """The folder of all runs on this machine."""
    return choose_runs_dir(resolve(config["runs_dir"])).resolve()


def find_latest(experiment: Experiment) -> Trial | None:
    """The newest run of this configuration, or None."""
    identity = trial_id(experiment.config)
    runs = sorted(
        (resolve_runs_dir(experiment.config) / SINGLE).glob(f"{identity}*/trial.yaml"),
        key=lambda path: _repeat(path.parent.name),
    )
    return Trial(runs[-1].parent) if runs else None


def find_trial(name: str, runs_dir: Path) -> Trial:
    """Find a run by its folder, its id, the beginning of its id, or its name.

    Several runs of one id: the first of them. The name is that of `lathe rename`, or the `name` of a run outside sweeps.

    Raises:
        InputError: no run has this name, or more than one.
    """
    path = user_path(name)
    if (path / "trial.yaml").is_file():
        return Trial(path.resolve())
    known = {path.parent.name: path.parent for path in runs_dir.glob("*/*/trial.yaml")}
    if name in known:
        return Trial(known[name].resolve())
    matches = [run for run in known if run.startswith(name)]
    if (
        len({run.partition("-")[0] for run in matches}) == 1
        and (first := min(matches, key=len)) == first.partition("-")[0]
    ):
        return Trial(known[first].resolve())  # the others are its repetitions, ``<id>-2``
    if len(matches) == 1:
        return Trial(known[matches[0]].resolve())
    names = {} if matches else {run: read_name(folder) for run, folder in known.items()}
    named = [run for run, shown in names.items() if shown == name]
    if len(named) == 1:
        return Trial(known[named[0]].resolve())
    if several := matches or named:
        fix = "write more of it" if matches else "write the id of one"
        raise InputError([f"run '{name}' is not unique in {runs_dir}: {', '.join(sorted(several))}; {fix}"])
    raise InputError(
        [f"there is no run '{name}' in {runs_dir}; {did_you_mean(name, {*known, *filter(None, names.values())})}"]
    )


def read_name(folder: Path) -> str | None:
    """The name that `lathe ls` shows for a run: the given one, or that of its configuration; None for a trial of a sweep."""
    if (given := read_given_name(folder)) is not None or folder.parent.name != SINGLE:
        return given
    with suppress(OSError, yaml.YAMLError):  # removed just now, or damaged
        line = NAME_LINE.search((folder / "trial.yaml").read_text(encoding="utf-8", errors="replace"))
        return None if line is None else str(yaml.load(line[1], Loader=yaml.CSafeLoader))
    return None


@contextmanager
def create_run_folder(runs_dir: Path, name: str) -> Iterator[Path]:
    """Create a run folder, with a number added if the name is taken. An exception in the context removes it again.

    Raises:
        InputError: the folder, or a file in it, cannot be written.
    """
    folder: Path | None = None
    problem = find_squatter(runs_dir)
    if problem is not None:
        raise InputError(
            [f"runs_dir={runs_dir} {problem}, who could change what your runs do; choose a folder of your own"]
        )
    try:
        folder = _new_folder(runs_dir, name)
        remember_runs_dir(runs_dir)
        yield folder
    except BaseException as err:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(err, OSError):
            raise
        raise InputError(
            [f"runs_dir={runs_dir} cannot be written: {err.strerror}; free space there or choose another runs_dir"]
        ) from err


def _new_folder(runs_dir: Path, name: str) -> Path:
    make_ignored(runs_dir)
    parent = (runs_dir / name).parent
    make_ignored(parent)
    for repeat in itertools.count(1):
        folder = runs_dir / (name if repeat == 1 else f"{name}-{repeat}")
        try:
            if parent == runs_dir:
                make_ignored(folder, is_new=True)
            else:
                folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _repeat(name: str) -> int:
    return int(name.partition("-")[2] or 1)
