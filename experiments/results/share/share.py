"""`lathe share`: one file of a run that others can read, run and reproduce, and that tells nothing of its maker."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.config.allowlist import is_own
from experiments.core import atomic
from experiments.core.errors import InputError
from experiments.core.secrets import looks_secret
from experiments.results.share import archive as bundle
from experiments.results.share import rules as shared_rules
from experiments.results.share.archive_code import no_text, telling
from experiments.results.share.parse import VERSION
from experiments.results.share.redact import SAID, Scrubber
from experiments.results.share.shared_file import read
from experiments.results.share.text import as_text
from experiments.run.checkpoint import Checkpoints
from experiments.run.metrics import MetricSeries
from experiments.trial.lookup import find_run
from experiments.trial.record import CodeRecord, code_folder, of_trial
from experiments.trial.trial import Trial

MOST_POINTS = 200
MOST_SHOWN = 100
MODEL = "model.safetensors"
LEFT_OUT = ("launcher", "tracking", "runs_dir", "data_root", "data.root", "hardware.slurm", "resume")
"""Overrides that say where a run was, which is nobody's affair; so does a choice of hardware=, by the name of its file."""


def share(asked: argparse.Namespace) -> int:
    """Write what was asked.

    Raises:
        InputError: the file is there already, or something that may not go out cannot be taken out.
    """
    trial, path = find_run(asked.run, Path(asked.runs_dir)), Path(asked.output).expanduser()
    _check_name(path, asked)
    scrubber = Scrubber.of(trial)
    files = _files(trial, scrubber) if asked.bundle else {}
    values, warnings = _values(trial, path, scrubber, files)
    text = as_text(values)
    _look_again(text, scrubber)
    _write(path, text, files)
    for warning in warnings:
        print(f"warning: {warning}")
    told = f"{path}: {os.path.getsize(path) / 1e3:,.1f} kB, run '{values['name']}' of trial {trial.id}"
    print(f"{told}; `{next(_how_to_run(str(path), trial.config))}` runs it")
    return 0


def _check_name(path: Path, asked: argparse.Namespace) -> None:
    """Tell of a name that cannot be meant."""
    is_archive = path.name.endswith((".tar.gz", ".tgz"))
    problems = []
    if asked.bundle and not is_archive:
        problems.append(f"-o {asked.output}: --bundle writes an archive; write -o {path.with_suffix('').name}.tar.gz")
    if not asked.bundle and is_archive:
        problems.append(f"-o {asked.output}: an archive comes of --bundle; add it, or write -o NAME.yaml")
    if path.is_dir():
        problems.append(f"-o {asked.output} is a folder; write -o {asked.output.rstrip('/')}/NAME.yaml")
    elif path.exists() and not asked.force:
        problems.append(f"-o {asked.output} is there already; choose another name, or add --force")
    elif not path.parent.is_dir():
        problems.append(f"-o {asked.output}: there is no folder {path.parent}; make it first")
    if problems:
        raise InputError(problems)


def _values(
    trial: Trial, path: Path, scrubber: Scrubber, files: Mapping[str, bytes | Path]
) -> tuple[dict[str, Any], list[str]]:
    """What the file is to say, and what whoever shares it should know.

    Raises:
        InputError: a value that the result depends on tells of the user or the machine.
    """
    record, provenance = of_trial(trial), trial.provenance
    config = _configuration(trial.config, scrubber)
    listed = {name: _sha256(held) for name, held in files.items()}
    noted = ("torch", "device_name", "cpu_capability", "cpu_threads")
    environment = {key: _clean(record.environment.get(key), scrubber) for key in ("python", "platform", *noted)}
    values: dict[str, Any] = {
        "lathe_share": VERSION,
        "name": config["name"],
        "note": config["note"],
        "how_to_run": [*_how_to_run("FILE" if scrubber.findings(path.name) else path.name, config)],
        "configuration": config,
        "trial_id": trial.id,
        "overrides": [scrubber.text(typed) for typed in provenance["overrides"] if not _is_of_place(typed)],
        "code": [_code(number, entry, trial, scrubber, listed) for number, entry in enumerate(record.code)],
        "environment": {**environment, "packages": _packages(record, scrubber)},
        "data": {key: record.data.get(key) for key in ("files", "num_files", "names_and_sizes_sha256", "splits")},
        "seeds": {"seed": config["seed"]},
        "expected": {"metrics": {name: thinned(points) for name, points in record.streams.items()}},
        "bundle": listed if files else None,
    }
    return values, [*_warnings(trial, record, files)]


def _configuration(config: Mapping[str, Any], scrubber: Scrubber) -> dict[str, Any]:
    """The configuration as it goes out; what people alone read is scrubbed, and nothing else is changed."""
    found = shared_rules.reset(config)
    for key in ("name", "note"):
        found[key] = _clean(found[key], scrubber)
    found["name"] = (found["name"] or "").strip().replace("/", "-").replace("\\", "-") or "shared"
    found["tags"] = {scrubber.text(key): _clean(value, scrubber) for key, value in (found["tags"] or {}).items()}
    values = ((key, value) for key, value in shared_rules.leaves(found) if isinstance(value, str))
    told = [(key, value, _told(key, value, scrubber)) for key, value in values if key not in shared_rules.PLACES]
    if problems := [_refusal(key, value, what) for key, value, what in told if what]:
        raise InputError(problems, "what is to be shared")
    return found


def _refusal(key: str, value: str, what: str) -> str:
    shown = "***" if looks_secret(key, value) else value
    return f"{key}={shown} holds {what}, which a shared file must not tell; choose another value and run again"


def _told(key: str, value: str, scrubber: Scrubber) -> str:
    """What a value tells, in words; "" where it tells nothing."""
    found = scrubber.known(value) if key.endswith("_target_") else scrubber.findings(value)
    return " and ".join(dict.fromkeys(SAID[finding.kind] for finding in found))


def _clean(value: Any, scrubber: Scrubber) -> Any:
    if not isinstance(value, str):
        return value
    return scrubber.text(value).replace("${", "$ {")  # a reference would be followed


def _how_to_run(name: str, config: Mapping[str, Any]) -> Iterator[str]:
    targets = [value for key, value in shared_rules.leaves(config) if key.endswith("_target_")]
    packages = dict.fromkeys(target.partition(".")[0] for target in targets if not is_own(target))
    trust = "".join(f" --trust {package}" for package in packages)
    yield f"lathe run --from {shlex.quote(name)}{trust}"
    yield f"lathe reproduce {shlex.quote(name)}{trust}"


def _is_of_place(typed: str) -> bool:
    key = typed.lstrip("+~").partition("=")[0]
    return key == "hardware" or any(key == place or key.startswith(f"{place}.") for place in LEFT_OUT)


def _code(
    number: int, entry: Mapping[str, Any], trial: Trial, scrubber: Scrubber, listed: Mapping[str, str]
) -> dict[str, Any]:
    """One checkout; the files that hold its changes by name where they go along.

    A folder of configurations, which may be called as whoever made it, is called by its number: only its digest counts.
    """
    names = {kind: _file_name(number, kind) for kind in ("diff", "untracked")}
    own = {Path(place).name for place in trial.provenance.get("config_dirs") or []}
    is_config = number > 0 and entry.get("git_sha") is None and entry["name"] in own
    return {
        "name": f"configurations-{number}" if is_config else _plain(scrubber.text(entry["name"])) or "code",
        "sha256": entry["sha256"],
        "git_sha": entry.get("git_sha"),
        "dirty": entry.get("dirty"),
        **{kind: name if f"{bundle.CODE}{name}" in listed else None for kind, name in names.items()},
    }


def _plain(name: str) -> str:
    return re.sub(r"[\[\]*]", "", name)


def _look_again(text: str, scrubber: Scrubber) -> None:
    """Refuse a file in which something is left that a name of a metric or a file has brought.

    Raises:
        InputError: with the line of the first.
    """
    for finding in scrubber.known(text)[:1]:
        line = text.splitlines()[text.count("\n", 0, finding.start)].strip()
        told = f"'{scrubber.text(line)[:MOST_SHOWN]}' would tell {SAID[finding.kind]}, which a shared file must not"
        raise InputError([f"{told}; call it otherwise and run again"], "what is to be shared")


def _file_name(number: int, kind: str) -> str:
    """What a file of a checkout's changes is called in the archive; a folder's own name may tell of somebody."""
    return f"{number}.patch" if kind == "diff" else f"{number}-untracked.tar.gz"


def _packages(record: CodeRecord, scrubber: Scrubber) -> dict[str, str]:
    """Those whose names and versions tell of nobody."""
    packages = record.environment.get("packages", {})
    return {name: version for name, version in packages.items() if not scrubber.findings(f"{name} {version}")}


def thinned(points: MetricSeries) -> dict[str, list[Any]]:
    """Steps and values of at most 200 points, evenly chosen, the first and the last among them."""
    last, most = len(points) - 1, min(len(points), MOST_POINTS)
    chosen = [points[index * last // max(1, most - 1)] for index in range(most)]
    return {"steps": [step for step, _ in chosen], "values": [value for _, value in chosen]}


def _files(trial: Trial, scrubber: Scrubber) -> dict[str, bytes | Path]:
    """What goes into an archive beside the YAML.

    Raises:
        InputError: the run has no weights, or its uncommitted code tells what must not go out.
    """
    folder, found = code_folder(trial), dict[str, bytes | Path]()
    for number, entry in enumerate(trial.provenance.get("code") or []):
        for kind in ("diff", "untracked"):
            if entry.get(kind):
                found[f"{bundle.CODE}{_file_name(number, kind)}"] = (folder / entry[kind]).read_bytes()
    if problems := [
        line for name, held in found.items() if isinstance(held, bytes) for line in telling(name, held, scrubber)
    ]:
        raise InputError(problems, "what is to be shared")
    checkpoints = Checkpoints(trial.folder, 1)
    checkpoint = checkpoints.best() or checkpoints.latest()
    if checkpoint is None:
        raise InputError(
            [f"run '{trial.folder.name}' has no checkpoint to bundle; leave --bundle out, or `lathe resume` it"]
        )
    found[bundle.WEIGHTS] = checkpoint.folder / MODEL
    return found


def _warnings(trial: Trial, record: CodeRecord, files: Mapping[str, bytes | Path]) -> Iterator[str]:
    outcome, has_bundle = trial.outcome(), bool(files)
    if outcome is None or outcome["status"] != "finished":
        yield f"run {trial.folder.name} is not finished, so what is expected of others ends where it does"
    if any(entry.get("dirty") for entry in record.code) and not has_bundle:
        yield "its code had uncommitted changes, which only --bundle takes along"
    if any(entry.get("git_sha") is None for entry in record.code):
        yield "some of its code is in no git checkout, so others can tell that theirs differs, and not how"
    closed = [path for name, held in files.items() if isinstance(held, bytes) for path in no_text(name, held)]
    if closed:
        more = f" and {len(closed) - 3} more" if len(closed) > 3 else ""
        yield f"{', '.join(closed[:3])}{more} of what is not committed goes out and is no text; look yourself at what it tells"
    if has_bundle:
        yield from (told for told in trial.provenance.get("warnings") or [] if "code snapshot" in told)
    if list(trial.folder.glob("attempts/*/changed.yaml")):
        yield "it went on under another parallel= or hardware=; what goes out is what it began with"


def _sha256(held: bytes | Path) -> str:
    digest = hashlib.sha256()
    if isinstance(held, bytes):
        digest.update(held)
        return digest.hexdigest()
    with held.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str, files: Mapping[str, bytes | Path]) -> None:
    """Put the file in place once it can be read back.

    Raises:
        InputError: it cannot be written, or nobody could read it.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        if files:
            bundle.write(partial, text, files)
        else:
            atomic.write_text(partial, text)
        read(partial)
        partial.replace(path)
        atomic.sync(path.absolute().parent)
    except InputError as err:
        told = [problem.replace(partial.name, path.name) for problem in err.problems]
        raise InputError(told, "what is to be shared") from err
    except OSError as err:
        raise InputError([f"-o {path} cannot be written: {err.strerror}; choose another place"]) from err
    finally:
        partial.unlink(missing_ok=True)
