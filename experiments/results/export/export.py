"""`lathe export`: writes the model of a run as an MLflow model, tests it, and can register it."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.components.model_signature import ModelInterface, add_reader, infer_interface
from experiments.config.allowlist import trusted
from experiments.config.rules.adapter import find_adapter
from experiments.config.rules.model_name import find_name_fault
from experiments.config.validate import check_config
from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.tracking.model.final_model import (
    FinalModel,
    find_final_model,
    find_project,
    read_interface,
    write_model,
)
from experiments.tracking.model.raw_inputs import PARTS, RawInputs, find_raw_inputs
from experiments.trial.code_copy import CODE
from experiments.trial.lookup import find_run
from experiments.trial.own_runs import check_own
from experiments.trial.trial import Trial, find_code_changes


def export(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        InputError: the run has no model, the folder exists, or the code does not fit the weights.
        StoreError: the store refused the model; the folder is written nevertheless.
    """
    folder, name = user_path(args.output, "-o").absolute(), args.register_as
    problems = [fault] if name is not None and (fault := find_name_fault("--register-as", name)) else []
    if folder.exists() or folder.is_symlink():
        problems.append(f"-o {args.output} exists already; name a new folder, or remove it")
    if args.adapter and (name is not None or args.no_preprocessing):
        problems.append("--adapter writes no whole model; leave out --register-as and --no-preprocessing")
    if problems:
        raise InputError(problems, "`lathe export`")
    trial = find_run(args.run, Path(args.runs_dir))
    check_own(trial.folder, Path(args.runs_dir), trust_code=args.trust_code)
    trust = trusted(args.trust)
    if args.adapter:
        return _export_adapter(trial, folder, trust)
    chosen, interface = find_final_model(trial), load_interface(trial, trust)
    if not (trial.folder.parent / CODE).is_dir() and find_code_changes(trial, args.trust):
        print(
            "warning: the code has changed since this run was frozen, and the model is exported with the current code; "
            f"{trial.folder / 'provenance.yaml'} has the commit of the run",
            file=sys.stderr,
        )
    raw = None if args.no_preprocessing else _find_raw_inputs(trial, interface, trust)
    _write_whole(trial, chosen, interface, trust, folder, raw)
    print(f"model of run {trial.folder.name} (step {chosen.checkpoint.step}, {chosen.reason}) in {folder}")
    words = interface.to_dict()
    if raw is None:
        print(f"takes {words['inputs']}, gives {words['outputs']}")
    else:
        print(f"takes {raw.kind}, gives the answers of `lathe predict`")
    print(f"serve it: mlflow models serve --env-manager local -m {shlex.quote(args.output)}")
    if name is not None:
        print(f"registered: {_register(trial, name, trust)}")
    return 0


def _export_adapter(trial: Trial, folder: Path, trust: Collection[str]) -> int:
    """Write the adapter of a run without the weights of its model.

    Raises:
        InputError: the run has none, or none that another library reads.
    """
    from experiments.components.adapter import load_adapted
    from modules.adapter.base import SavesAdapter

    if find_adapter(trial.config) is None:
        raise InputError(
            [f"--adapter: run '{trial.folder.name}' has no adapter; leave it out to export the whole model"]
        )
    chosen = find_final_model(trial)
    model, adapter = load_adapted(trial, chosen.weights, trust)
    if not isinstance(adapter, SavesAdapter):
        named = trial.config["adapter"]["_target_"]
        raise InputError([f"--adapter: {named} has no method save(); add it, or leave --adapter out"])
    with write_folder(folder) as partial:
        adapter.save(model, partial)
    print(f"adapter of run {trial.folder.name} (step {chosen.checkpoint.step}, {chosen.reason}) in {folder}")
    return 0


def load_interface(trial: Trial, trust: Collection[str]) -> ModelInterface:
    """The inputs and outputs of the model, as the run recorded them, or from a test with zeros.

    Raises:
        InputError: the configuration names code that is not trusted, or is not valid, or the task has no outputs.
    """
    check_config(trial.config, trust, f"run '{trial.folder.name}'", with_rules=False)
    if (interface := read_interface(trial)) is not None:
        return interface
    import torch

    from experiments.components.assemble import SUPERVISED
    from experiments.components.instantiate import instantiate

    if trial.config.get("task", SUPERVISED) != SUPERVISED:
        raise InputError(
            [
                f"run '{trial.folder.name}' does not say what the outputs of its model are; return them from the evaluate() of "
                f"its task {trial.config['task']['_target_']}, and train again"
            ]
        )
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        inputs, _ = instantiate(trial.config["data"], "data", trust).example(2)
        return infer_interface(inputs, instantiate(trial.config["model"], "model", trust).eval()(inputs))


def _find_raw_inputs(trial: Trial, interface: ModelInterface, trust: Collection[str]) -> RawInputs | None:
    """
    Raises:
        InputError: a file of the data set is needed, but missing or damaged.
    """
    from experiments.components.instantiate import instantiate

    if interface.takes is None:  # runs of earlier versions did not record it
        interface = add_reader(interface, *(instantiate(trial.config[part], part, trust) for part in PARTS))
    try:
        return find_raw_inputs(trial, interface, find_project(trial), trust)
    except InputError as err:
        hint = "or add --no-preprocessing to export a model that takes arrays"
        raise InputError([f"{problem}; {hint}" for problem in err.problems], "`lathe export`") from err


def _write_whole(
    trial: Trial, chosen: FinalModel, interface: ModelInterface, trust: Collection[str], folder: Path,
    raw: RawInputs | None,
) -> None:  # fmt: skip
    """Write the folder under a temporary name, test the model in it, and rename the folder.

    Raises:
        InputError: it cannot be written, or the model cannot be loaded from it.
    """
    with write_folder(folder) as partial:
        partial.rmdir()
        write_model(trial, chosen, interface, trust, partial, link=False, raw=raw)
        _test(partial, trial)


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder under a temporary name, which gets its name at the end.

    Raises:
        InputError: it cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as err:
        raise InputError([f"{folder} cannot be written: {err.strerror}; free space there, or name another"]) from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _test(folder: Path, trial: Trial) -> None:
    """Load the exported model with its own code, and predict its example."""
    from experiments.components.instantiate import describe_error
    from experiments.tracking.model.loader import _load_pyfunc
    from experiments.tracking.model.mlflow_model import load_example

    try:
        model, example = _load_pyfunc(str(folder / "data" / "model"), {"device": "cpu"}), load_example(folder)
        if example is not None:
            model.predict(example)
    except Exception as err:  # user code
        hint = f"use the code of the run, which {trial.folder / 'provenance.yaml'} names"
        # The exported code has an InputError class of its own.
        problems = getattr(err, "problems", None) or [describe_error(err)]
        raise InputError([f"{problem}; {hint}" for problem in problems], "the exported model") from err


def _register(trial: Trial, name: str, trust: tuple[str, ...]) -> str:
    """Sync the run, log its model and register it; returns the URI of that version in MLflow."""
    from experiments.tracking.run_sync import RunSync
    from experiments.tracking.store_uri import StoreError
    from experiments.tracking.sweep_sync import sync_all

    summary = sync_all(trial.runs_dir, [str(trial.folder)], trust, trust_code=True)
    if summary.failures:
        raise StoreError(summary.failures[0])
    return f"models:/{name}/{RunSync(trial, trust).log_model(register_as=name).version}"
