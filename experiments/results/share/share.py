"""`lathe share`: one file of a run that others can read, run and reproduce, without secrets or names of its author."""

from __future__ import annotations

import argparse
import hashlib
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.config.allowlist import is_own
from experiments.config.rules.adapter import find_adapter
from experiments.core import atomic
from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.core.secrets import is_secret
from experiments.results.share import archive, rules
from experiments.results.share.parse import VERSION
from experiments.results.share.redact import KINDS, Redactor
from experiments.results.share.shared_file import read
from experiments.results.share.text import as_text
from experiments.results.share.uncommitted_code import find_private
from experiments.run.checkpoint import WEIGHTS, Checkpoints
from experiments.run.metrics import MetricSeries
from experiments.trial.lookup import find_run
from experiments.trial.record import RunRecord, find_code_folder, record_trial
from experiments.trial.resume import check_repeatable
from experiments.trial.trial import Trial

MAX_POINTS = 200
MAX_SHOWN = 100
LEFT_OUT = ("launcher", "tracking", "runs_dir", "data_root", "data.root", "hardware.slurm", "resume")
"""Overrides of the machine's settings. A choice of hardware= is left out too: the name of its file may identify a lab."""


def share(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        InputError: the file exists already, or the run holds something that must not be shared and cannot be redacted.
    """
    trial, path = find_run(args.run, Path(args.runs_dir)), user_path(args.output, "-o")
    _check_output(path, args)
    check_repeatable(trial)
    redactor = Redactor.for_run(trial)
    files = _collect_files(trial, redactor) if args.bundle else {}
    record = record_trial(trial)
    values = _values(trial, record, path, redactor, files)
    text = as_text(values)
    _check_text(text, redactor)
    _write(path, text, files)
    for warning in _warnings(trial, record, has_bundle=args.bundle):
        print(f"warning: {warning}")
    size = f"{path}: {path.stat().st_size / 1e3:,.1f} kB, run '{values['name']}' of trial {trial.id}"
    print(f"{size}; `{_commands(str(path), trial.config)[0]}` runs it")
    return 0


def _check_output(path: Path, args: argparse.Namespace) -> None:
    is_archive = path.name.endswith((".tar.gz", ".tgz"))
    problems = []
    if args.bundle and not is_archive:
        problems.append(f"-o {args.output}: --bundle writes an archive; write -o {path.with_suffix('').name}.tar.gz")
    if not args.bundle and is_archive:
        problems.append(f"-o {args.output}: only --bundle writes an archive; add it, or write -o NAME.yaml")
    if path.is_dir():
        problems.append(f"-o {args.output} is a folder; write -o {args.output.rstrip('/')}/NAME.yaml")
    elif path.exists() and not args.force:
        problems.append(f"-o {args.output} exists already; choose another name, or add --force")
    elif not path.parent.is_dir():
        problems.append(f"-o {args.output}: there is no folder {path.parent}; create it first")
    if problems:
        raise InputError(problems)


def _values(
    trial: Trial, record: RunRecord, path: Path, redactor: Redactor, files: Mapping[str, bytes | Path]
) -> dict[str, Any]:
    """The keys of `SharedFileSchema`.

    Raises:
        InputError: a value that the result depends on must not be shared.
    """
    config, environment = _configuration(trial.config, redactor), record.environment
    names = ("python", "platform", "torch", "device_name", "cpu_capability", "cpu_threads")
    packages = environment.get("packages", {}).items()
    return {
        "lathe_share": VERSION,
        "name": config["name"],
        "description": config["description"],
        "how_to_run": _commands("FILE" if redactor.find(path.name) else path.name, config),
        "configuration": config,
        "trial_id": trial.id,
        "overrides": [
            _redact_override(text, redactor) for text in trial.provenance["overrides"] if not _is_of_machine(text)
        ],
        "code": [_code(number, entry, trial, redactor, files) for number, entry in enumerate(record.code)],
        "environment": {
            **{name: _redact(environment.get(name), redactor) for name in names},
            "packages": {name: version for name, version in packages if not redactor.find(f"{name} {version}")},
        },
        "data": {key: record.data.get(key) for key in ("files", "num_files", "names_and_sizes_sha256", "splits")},
        "seeds": {"seed": config["seed"]},
        "expected": {"metrics": {name: thin_out(points) for name, points in record.streams.items()}},
        "bundle": {name: _sha256(content) for name, content in files.items()} or None,
    }


def _configuration(config: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """The configuration with redacted name, description and tags; the other values determine the result and stay as they are."""
    shared = rules.reset(config)
    shared["name"] = re.sub(r"[/\\]", "-", _redact(shared["name"], redactor) or "").strip() or "shared"
    shared["description"] = _redact(shared["description"], redactor)
    shared["tags"] = {
        redactor.redact(key): "***" if is_secret(key, value) else _redact(value, redactor)
        for key, value in (shared["tags"] or {}).items()
    }
    problems = []
    for key, value in rules.leaves(shared):
        if isinstance(value, str) and key not in rules.PATHS:
            findings = redactor.find_known(value) if key.endswith("_target_") else redactor.find(value)
            kinds = " and ".join(dict.fromkeys(KINDS[finding.kind] for finding in findings))
            if kinds := kinds or (KINDS["secret"] if value != "***" and is_secret(key, value) else ""):
                shown = "***" if is_secret(key, value) else value
                problems.append(
                    f"{key}={shown} holds {kinds}, which must not be shared; choose another value and run again"
                )
    if problems:
        raise InputError(problems, "the shared file")
    return shared


def _redact(value: Any, redactor: Redactor) -> Any:
    # A reference (`${...}`) would be refused when the file is read.
    return redactor.redact(value).replace("${", "$ {") if isinstance(value, str) else value


def _redact_override(text: str, redactor: Redactor) -> str:
    key, equals, value = text.partition("=")
    return f"{key}=***" if equals and is_secret(key.lstrip("+"), value) else redactor.redact(text)


def _commands(name: str, config: Mapping[str, Any]) -> list[str]:
    targets = [value for key, value in rules.leaves(config) if key.endswith("_target_")]
    packages = dict.fromkeys(target.partition(".")[0] for target in targets if not is_own(target))
    args = shlex.join([name, *(word for package in packages for word in ("--trust", package))])
    return [f"lathe run --from {args}", f"lathe reproduce {args}"]


def _is_of_machine(override_text: str) -> bool:
    key = override_text.lstrip("+~").partition("=")[0]
    return key == "hardware" or any(key == name or key.startswith(f"{name}.") for name in LEFT_OUT)


def _code(
    number: int, entry: Mapping[str, Any], trial: Trial, redactor: Redactor, files: Mapping[str, bytes | Path]
) -> dict[str, Any]:
    """The entry of one checkout. A folder of configurations is named by its number: its name may identify its author."""
    config_dirs = {Path(folder).name for folder in trial.provenance["config_dirs"]}
    is_config = number > 0 and entry.get("git_sha") is None and entry["name"] in config_dirs
    name = f"configurations-{number}" if is_config else re.sub(r"[\[\]*]", "", redactor.redact(entry["name"])) or "code"
    names = {kind: _file_name(number, kind) for kind in ("diff", "untracked")}
    return {
        "name": name,
        **{key: entry.get(key) for key in ("sha256", "git_sha", "dirty")},
        **{kind: name if f"{archive.CODE}{name}" in files else None for kind, name in names.items()},
    }


def _file_name(number: int, kind: str) -> str:
    """The name of a checkout's changes in the archive: by number, as the name of the checkout may identify its author."""
    return f"{number}.patch" if kind == "diff" else f"{number}-untracked.tar.gz"


def _check_text(text: str, redactor: Redactor) -> None:
    """Refuse a file that still holds a name or a secret, for example in the name of a metric.

    Raises:
        InputError: with the first such line.
    """
    for finding in redactor.find_known(text)[:1]:
        line = redactor.redact(text.splitlines()[text.count("\n", 0, finding.start)].strip())[:MAX_SHOWN]
        hint = "which must not be shared; rename it and run again"
        raise InputError([f"the line '{line}' would hold {KINDS[finding.kind]}, {hint}"], "the shared file")


def thin_out(points: MetricSeries) -> dict[str, list[Any]]:
    """Steps and values of at most 200 points, evenly spaced, with the first and the last."""
    last, count = len(points) - 1, min(len(points), MAX_POINTS)
    chosen = [points[index * last // max(1, count - 1)] for index in range(count)]
    return {"steps": [step for step, _ in chosen], "values": [value for _, value in chosen]}


def _collect_files(trial: Trial, redactor: Redactor) -> dict[str, bytes | Path]:
    """The other files of an archive, by name.

    Raises:
        InputError: the run has no weights, or its uncommitted code holds something that must not be shared.
    """
    folder = find_code_folder(trial)
    try:
        code = {
            f"{archive.CODE}{_file_name(number, kind)}": (folder / entry[kind]).read_bytes()
            for number, entry in enumerate(trial.provenance["code"])
            for kind in ("diff", "untracked")
            if entry.get(kind)
        }
    except OSError as err:
        hint = f"restore {folder}, or leave --bundle out"
        raise InputError([f"the uncommitted code {err.filename} cannot be read: {err.strerror}; {hint}"]) from err
    if problems := [line for name, content in code.items() for line in find_private(name, content, redactor)]:
        raise InputError(problems, "the shared file")
    checkpoints = Checkpoints(trial.folder, 1, needed=WEIGHTS)
    checkpoint = checkpoints.delivered()
    if checkpoint is None:
        cause = "".join(f": {warning}" for warning in checkpoints.warnings)
        raise InputError(
            [f"run '{trial.folder.name}' has no checkpoint to bundle{cause}; leave --bundle out, or `lathe resume` it"]
        )
    return {**code, archive.WEIGHTS: checkpoint.weights}


def _warnings(trial: Trial, record: RunRecord, *, has_bundle: bool) -> Iterator[str]:
    outcome = trial.outcome()
    if outcome is None or outcome["status"] != "finished":
        yield f"run {trial.folder.name} is not finished, so the expected metrics end early"
    if has_bundle and find_adapter(trial.config) is not None:
        yield "its weights are those of the adapter alone; others also need the file of init_from.weights"
    if any(entry.get("dirty") for entry in record.code) and not has_bundle:
        yield "its code had uncommitted changes, which are shared only with --bundle"
    if any(entry.get("git_sha") is None for entry in record.code):
        yield "some of its code is not in a git checkout, so others can see that their code differs, but not where"
    if has_bundle:
        yield from (warning for warning in trial.provenance["warnings"] if "code snapshot" in warning)
    if list(trial.folder.glob("attempts/*/changed.yaml")):
        yield "it was resumed with another parallel= or hardware=; the shared file has the first configuration"


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str, files: Mapping[str, bytes | Path]) -> None:
    """Write the file, and give it its name only if it can be read back.

    Raises:
        InputError: it cannot be written, or not read back.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        atomic.sweep_partials(path)
        if files:
            archive.write(partial, text, files)
        else:
            partial.write_bytes(text.encode())
            atomic.fsync(partial)
        read(partial)
        partial.replace(path)
        atomic.fsync(path.absolute().parent)
    except InputError as err:
        problems = [problem.replace(partial.name, path.name) for problem in err.problems]
        raise InputError(problems, "the shared file") from err
    except OSError as err:
        raise InputError([f"-o {path} cannot be written: {err.strerror}; choose another folder"]) from err
    finally:
        partial.unlink(missing_ok=True)
