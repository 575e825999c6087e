"""`lathe predict`: what a finished run's model makes of images or texts that a user gives."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from experiments.config.allowlist import trusted
from experiments.core.errors import InputError
from experiments.results.export.export import interface_of
from experiments.results.predict.inputs import Given, each_given, leaves_out, problems_of
from experiments.results.predict.outputs import Printed
from experiments.tracking.model.final_model import describe_model, find_final_model
from experiments.trial.lookup import find_run
from experiments.trial.trial import Trial, find_code_changes

if TYPE_CHECKING:
    from torch import nn

    from modules.data.base import InputReader
    from modules.evaluator.base import Predicts

SET = ("evaluator.", "data.root=", "data.photo_size=")
"""What `--set` changes: how a model is asked. What its numbers mean, such as a vocabulary, is as it was in training."""


def predict(asked: argparse.Namespace) -> int:
    """Do what the command line asks; 1 where one of the inputs is none.

    Raises:
        InputError: the run has no model, nobody answers for it, or the words of the command line name no inputs.
    """
    trial = find_run(asked.run, Path(asked.runs_dir))
    trust = trusted(asked.trust)
    chosen = find_final_model(trial)
    is_typed = sys.stdin is None or sys.stdin.isatty()  # None: whoever started this has closed it
    if not asked.inputs and is_typed:
        raise InputError(["INPUT is missing; name what the model is to see, or `-` for lines that you type"])
    data, evaluator = _parts(trial, _config(trial, asked), trust)
    output = Path(asked.output).expanduser() if asked.output else None
    if problems := problems_of(asked.inputs, data.takes, output):
        raise InputError(problems, f"the input of '{trial.config['name']}', which takes {data.takes}s,")
    from experiments.tracking.model.predictor import prepare

    interface = interface_of(trial, trust)
    if interface.class_names is not None:  # as after loading, which reads the whole set
        data.class_names = list(interface.class_names)  # type: ignore[attr-defined]  # not all have them
    facts = describe_model(trial, chosen, interface)
    predictor = prepare(facts, chosen.weights)
    for _ in find_code_changes(trial, asked.trust):
        print(
            "warning: the code has changed since this run was frozen, and it is asked with that of today",
            file=sys.stderr,
        )
    print(f"model of run {trial.folder.name}: step {facts['step']}, {facts['chosen']}", file=sys.stderr)
    about = {"run": trial.folder.name, "step": facts["step"]} if asked.json else None
    if data.takes == "image" and output is not None and leaves_out(asked.inputs, output):
        print(f"images in {output} are not asked about, as former answers lie there", file=sys.stderr)
    printed = Printed(data.takes, output, about)
    given = each_given(asked.inputs, data.takes, sys.stdin.buffer if sys.stdin else (), output)
    at_once = 1 if "-" in (asked.inputs or "-") and not _is_file(sys.stdin) else predictor.batch_size
    while batch := list(islice(given, at_once)):
        _answer(batch, predictor.model, data, evaluator, printed)
    printed.close()
    return 1 if printed.num_faults else 0


def _is_file(stream: TextIO | None) -> bool:
    """Whether all that is to be read is there; of a terminal or a pipe each line is answered as it comes."""
    try:
        return stream is not None and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:  # no stream of the system's
        return False


def _config(trial: Trial, asked: argparse.Namespace) -> dict[str, Any]:
    """The run's, and in it what the user wants to be otherwise when asking.

    Raises:
        InputError: there is no such key, or a value does not fit it.
    """
    if not asked.changes:
        return trial.config
    if strange := [word for word in asked.changes if not word.startswith(SET)]:
        rule = "is not how a model is asked; set evaluator.KEY, data.root or data.photo_size"
        raise InputError([f"--set {word} {rule}" for word in strange])
    from experiments.config.compose import change

    dirs, packages = trial.provenance["config_dirs"], [*trial.provenance["trust"], *asked.trust]
    return change(trial.config, asked.changes, trial.id, config_dirs=dirs, trust=packages).config


def _parts(trial: Trial, config: dict[str, Any], trust: Collection[str]) -> tuple[InputReader, Predicts]:
    """The data, which reads inputs, and the evaluator, which answers.

    Raises:
        InputError: one of them does not.
    """
    from experiments.components.instantiate import instantiate
    from modules.data.base import InputReader
    from modules.evaluator.base import Predicts, renamed_methods

    data, evaluator = (instantiate(config[part], part, trust) for part in ("data", "evaluator"))
    problems = []
    if not isinstance(data, InputReader):
        problems.append(
            f"data {type(data).__name__} of run '{trial.folder.name}' reads nothing that a user could give; predict with arrays: "
            f"`lathe export {trial.reference} -o DIR` and mlflow.pyfunc.load_model"
        )
    if not isinstance(evaluator, Predicts):
        problems += renamed_methods(evaluator) or [
            f"evaluator {type(evaluator).__name__} of run '{trial.folder.name}' has no method predict(); predict with "
            f"arrays: `lathe export {trial.reference} -o DIR` and mlflow.pyfunc.load_model"
        ]
    if problems:
        raise InputError(problems, "`lathe predict`")
    return data, evaluator


def _answer(batch: Sequence[Given], model: nn.Module, data: InputReader, evaluator: Predicts, printed: Printed) -> None:
    """Ask about a batch and print what is answered, in order.

    Raises:
        InputError: the data set lacks a file that is needed, or the model does not fit its evaluator.
    """
    values = [given.value for given in batch if given.fault is None]
    if len(values) == len(batch):
        from modules.data.base import UserInputError

        try:
            return printed.show(values, _answers(values, model, data, evaluator))
        except UserInputError as err:
            if len(batch) == 1:
                return printed.tell(values[0], str(err))
    for given in batch:  # one of them is at fault, and the others are not
        if given.fault is None:
            _answer([given], model, data, evaluator, printed)
        else:
            printed.tell(given.value, given.fault)
    return None


def _answers(values: Sequence[str], model: nn.Module, data: InputReader, evaluator: Predicts) -> Any:
    """
    Raises:
        GivenError: one of them is no input, or too much for the model or the machine.
        InputError: as `_answer`.
    """
    import torch

    from experiments.components.instantiate import describe_error
    from modules.data.base import DataError, UserInputError

    try:
        with torch.inference_mode():
            return evaluator.predict(model, data, values)
    except UserInputError:
        raise
    except (DataError, ValueError) as err:
        raise InputError([str(err)], "the model") from err
    except RuntimeError as err:  # memory that is not there, and what only the model knows
        raise UserInputError(f"{values[0]}: {describe_error(err)}; give a smaller input") from err
