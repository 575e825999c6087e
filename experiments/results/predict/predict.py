"""`lathe predict`: applies the model of a run to images, recordings, texts or rows of the user."""

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
from experiments.core.files.paths import user_path
from experiments.results.export.export import load_interface
from experiments.results.predict.inputs import FILES, PLURALS, ModelInput, find_problems, read_inputs, skips_output
from experiments.results.predict.outputs import PredictionWriter
from experiments.tracking.model.final_model import describe_model, find_final_model
from experiments.trial.lookup import find_run
from experiments.trial.trial import Trial, find_code_changes

if TYPE_CHECKING:
    from torch import nn

    from modules.data.base import InputReader
    from modules.evaluator.base import Predicts

SET = ("evaluator=", "evaluator.", "data.root=", "data.photo_size=")
"""What `--set` can change. All others, such as the vocabulary, must stay as in training."""


def predict(args: argparse.Namespace) -> int:
    """Run the command; returns 1 if one of the inputs is not valid.

    Raises:
        InputError: the run has no model, it cannot predict, or the arguments name no inputs.
    """
    trial = find_run(args.run, Path(args.runs_dir))
    trust = trusted(args.trust)
    chosen = find_final_model(trial)
    is_typed = sys.stdin is None or sys.stdin.isatty()  # None: the parent process closed it
    if not args.inputs and is_typed:
        raise InputError(["INPUT is missing; name a file or text, or `-` to type lines"])
    interface = load_interface(trial, trust)
    data, evaluator = _components(trial, _config(trial, args), trust)
    output = user_path(args.output, "-o") if args.output else None
    if problems := find_problems(args.inputs, data.takes, output):
        raise InputError(problems, f"the input of '{trial.config['name']}', which takes {PLURALS[data.takes]},")
    from experiments.components.adapter import whole_weights
    from experiments.tracking.model.predictor import prepare

    if interface.class_names is not None:  # only loading the whole data set would set them
        data.class_names = list(interface.class_names)  # type: ignore[attr-defined]  # not all have them
    facts = describe_model(trial, chosen, interface)
    with whole_weights(trial, chosen.weights, trust) as weights:
        predictor = prepare(facts, weights)
    for _ in find_code_changes(trial, args.trust):
        print(
            "warning: the code has changed since this run was frozen, and the prediction uses the current code",
            file=sys.stderr,
        )
    print(f"model of run {trial.folder.name}: step {facts['step']}, {facts['chosen']}", file=sys.stderr)
    about = {"run": trial.folder.name, "step": facts["step"]} if args.json else None
    if data.takes in FILES and output is not None and skips_output(args.inputs, output):
        print(f"files in {output} are skipped, as it holds earlier predictions", file=sys.stderr)
    writer = PredictionWriter(data.takes, output, about)
    inputs = read_inputs(args.inputs, data.takes, sys.stdin.buffer if sys.stdin else (), output)
    batch_size = 1 if "-" in (args.inputs or "-") and not _is_file(sys.stdin) else predictor.batch_size
    while batch := list(islice(inputs, batch_size)):
        _predict_batch(batch, predictor.model, data, evaluator, writer)
    writer.close()
    return 1 if writer.num_errors else 0


def _is_file(stream: TextIO | None) -> bool:
    """True for a file, which is read in batches; lines of a terminal or pipe are predicted one by one."""
    try:
        return stream is not None and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:  # not a stream of the operating system
        return False


def _config(trial: Trial, args: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the run, with the changes of `--set`.

    Raises:
        InputError: there is no such key, or a value does not fit it.
    """
    if not args.changes:
        return trial.config
    if wrong := [text for text in args.changes if not text.startswith(SET)]:
        rule = "would change what the model was trained for; set evaluator, evaluator.KEY, data.root or data.photo_size"
        raise InputError([f"--set {text} {rule}" for text in wrong])
    from experiments.config.compose import change

    dirs = trial.provenance["config_dirs"]
    return change(trial.config, args.changes, trial.id, config_dirs=dirs, trust=args.trust).config


def _components(trial: Trial, config: dict[str, Any], trust: Collection[str]) -> tuple[InputReader, Predicts]:
    """The data, which reads inputs, and the evaluator, which predicts.

    Raises:
        InputError: one of them cannot.
    """
    from experiments.components.instantiate import instantiate
    from modules.data.base import InputReader
    from modules.evaluator.base import find_predicting, renamed_methods

    data, whole = (instantiate(config[part], part, trust) for part in ("data", "evaluator"))
    problems, evaluator = list[str](), find_predicting(whole)
    if not isinstance(data, InputReader):
        problems.append(
            f"data {type(data).__name__} of run '{trial.folder.name}' cannot read inputs of a user; predict with arrays: "
            f"`lathe export {trial.reference} -o DIR` and mlflow.pyfunc.load_model"
        )
    if evaluator is None:
        problems += renamed_methods(whole) or [
            f"evaluator {type(whole).__name__} of run '{trial.folder.name}' has no method predict(); choose another, such as "
            f"`--set evaluator=accuracy`, or predict with arrays: `lathe export {trial.reference} -o DIR` and "
            "mlflow.pyfunc.load_model"
        ]
    if problems or evaluator is None:
        raise InputError(problems, "`lathe predict`")
    return data, evaluator


def _predict_batch(
    batch: Sequence[ModelInput], model: nn.Module, data: InputReader, evaluator: Predicts, writer: PredictionWriter
) -> None:
    """Predict a batch, and print the predictions in order.

    Raises:
        InputError: the data set lacks a file, or the model does not fit its evaluator.
    """
    values = [item.value for item in batch if item.problem is None]
    if len(values) == len(batch):
        from modules.data.base import UserInputError

        try:
            return writer.show(values, _predict(values, model, data, evaluator))
        except UserInputError as err:
            if len(batch) == 1:
                return writer.show_error(values[0], str(err))
    for item in batch:  # one by one, to find the one that fails
        if item.problem is None:
            _predict_batch([item], model, data, evaluator, writer)
        else:
            writer.show_error(item.value, item.problem)
    return None


def _predict(values: Sequence[str], model: nn.Module, data: InputReader, evaluator: Predicts) -> Any:
    """
    Raises:
        UserInputError: one of them is not a valid input, or too large for the model or the machine.
        InputError: as `_predict_batch`.
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
    except RuntimeError as err:  # out of memory, or an error of the model
        raise UserInputError(f"{values[0]}: {describe_error(err)}; give a smaller input") from err
