"""`lathe export`: writes a run's model as an MLflow model, tries it, and registers it where that is asked for."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from experiments.components.model_signature import ModelInterface, infer_interface
from experiments.config.allowlist import is_allowed, trusted
from experiments.config.rules.model_name import fault_of
from experiments.core.errors import InputError
from experiments.tracking.model.final_model import FinalModel, find_final_model, read_interface, write_model
from experiments.tracking.model.model_code import find_targets
from experiments.trial.code_copy import CODE
from experiments.trial.lookup import find_run
from experiments.trial.trial import Trial, find_code_changes


def export(asked: argparse.Namespace) -> int:
    """Do what the command line asks.

    Raises:
        InputError: the run has no model, the folder is taken, or the code does not fit the weights.
        StoreError: the store did not take it; the folder is written all the same.
    """
    folder, name = Path(asked.output).expanduser().absolute(), asked.register_as
    problems = [fault] if name is not None and (fault := fault_of("--register-as", name)) else []
    if folder.exists() or folder.is_symlink():
        problems.append(f"-o {asked.output} is there already; name a folder that is not, or remove it")
    if problems:
        raise InputError(problems, "`lathe export`")
    trial = find_run(asked.run, Path(asked.runs_dir))
    trust = trusted(asked.trust)
    chosen, interface = find_final_model(trial), interface_of(trial, trust)
    if not (trial.folder.parent / CODE).is_dir() and find_code_changes(trial, asked.trust):
        told = f"the model goes out with the code of today; what it was stands in {trial.folder / 'provenance.yaml'}"
        print(f"warning: the code has changed since this run was frozen, and {told}", file=sys.stderr)
    _write_whole(trial, chosen, interface, trust, folder)
    print(f"model of run {trial.folder.name} (step {chosen.checkpoint.step}, {chosen.why}) in {folder}")
    words = interface.words()
    print(f"takes {words['inputs']}, gives {words['outputs']}")
    print(f"serve it: mlflow models serve --env-manager local -m {shlex.quote(asked.output)}")
    if name is not None:
        print(f"registered: {_registered(trial, name)}")
    return 0


def interface_of(trial: Trial, trust: Collection[str]) -> ModelInterface:
    """What the model takes and gives: as the run noted, else by trying it on zeros.

    Raises:
        InputError: it names code that nobody trusts, or the code is not what it was.
    """
    strangers = [target for target in find_targets(trial.config["model"]) if not is_allowed(target, trust)]
    if strangers:
        raise InputError(
            [
                f"model._target_={target} is not on the list of code that may run; if you trust it, add "
                f"`--trust {target.partition('.')[0]}`"
                for target in strangers
            ]
        )
    if (found := read_interface(trial)) is not None:
        return found
    import torch

    from experiments.components.instantiate import instantiate

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        inputs, _ = instantiate(trial.config["data"], "data", trust).example(2)
        return infer_interface(inputs, instantiate(trial.config["model"], "model", trust).eval()(inputs))


def _write_whole(
    trial: Trial, chosen: FinalModel, interface: ModelInterface, trust: Collection[str], folder: Path
) -> None:
    """Write the folder, try what is in it, and only then give it its name.

    Raises:
        InputError: it cannot be written, or the model cannot be loaded from it.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        write_model(trial, chosen, interface, trust, partial, link=False)
        _try(partial, trial)
        partial.rename(folder)
    except OSError as err:
        raise InputError([f"{folder} cannot be written: {err.strerror}; free space there, or name another"]) from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _try(folder: Path, trial: Trial) -> None:
    """Load the model with the code beside it, and let it answer its own example."""
    from experiments.components.instantiate import describe_error
    from experiments.tracking.model.loader import _load_pyfunc
    from experiments.tracking.model.mlflow_model import load_example

    try:
        _load_pyfunc(str(folder / "data" / "model"), {"device": "cpu"}).predict(load_example(folder))
    except Exception as err:  # code of anyone's
        way_out = f"take the code of the run, which {trial.folder / 'provenance.yaml'} names"
        # Raised by the code beside the model, whose InputError is a class of its own.
        told = getattr(err, "problems", None) or [describe_error(err)]
        raise InputError([f"{problem}; {way_out}" for problem in told], "the model that was written") from err


def _registered(trial: Trial, name: str) -> str:
    """Bring the run to its store, log the model there and register it; how MLflow calls that version."""
    from experiments.tracking.run_sync import RunSync
    from experiments.tracking.store_uri import StoreError
    from experiments.tracking.sweep_sync import sync_all

    summary = sync_all(trial.runs_dir, [str(trial.folder)])
    if summary.failures:
        raise StoreError(summary.failures[0])
    return f"models:/{name}/{RunSync(trial).log_model(register_as=name).version}"
