"""The rule that a model has an embedding for every token of its data. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.config.rules.base import ConfigView, NotApplicable

SIZES = ("vocab_size", "source_vocab_size", "target_vocab_size")


def _embeddings(view: ConfigView) -> list[str]:
    """An id without an embedding ends a training with an IndexError, and on a GPU without a readable one."""
    problems = []
    for name in SIZES:
        for key, size, fix in _find_sizes(view, name):
            try:
                num_tokens = view.get(f"data.{name}", int)
            except NotApplicable:
                continue
            if size < num_tokens:
                problems.append(
                    f"data.{name}={num_tokens} is more than {key}={size}, so the model has no embedding for some tokens; {fix}"
                )
    return problems


def _find_sizes(view: ConfigView, name: str) -> Iterator[tuple[str, int, str]]:
    """Key and number of the embeddings of a model, and what to do if there are too few."""
    model = view.get("model", dict)
    if type(model.get(name)) is int:
        yield f"model.{name}", model[name], f"set model.{name}=${{data.{name}}}"
    for part in ("changes", "config"):  # of a model of Hugging Face
        if isinstance(values := model.get(part), dict) and type(values.get(name)) is int:
            yield f"model.{part}.{name}", values[name], "set data.tokenizer to the folder of the model"
            return


RULES = (_embeddings,)
