"""Cross-validation: the training examples are cut into folds, one of which validates. Imports no torch."""

from __future__ import annotations


def check_fold(owner: str, fold: int | None, num_folds: int) -> None:
    """
    Args:
        owner: class of the data set, for the message.
        fold: which fold validates, from 0; None: no cross-validation.
        num_folds: at least 2.

    Raises:
        ValueError: there is no such fold.
    """
    if num_folds < 2:
        raise ValueError(f"{owner} wants num_folds of at least 2, but got {num_folds}")
    if fold is not None and not 0 <= fold < num_folds:
        raise ValueError(f"{owner} wants fold from 0 to {num_folds - 1} (num_folds - 1), but got {fold}")


def find_fold(num_examples: int, fold: int, num_folds: int) -> slice:
    """The examples of a fold, in an order that is the same for all folds. Their sizes differ by at most one.

    Raises:
        ValueError: there are fewer examples than folds.
    """
    if num_examples < num_folds:
        raise ValueError(f"{num_examples} examples are too few for data.num_folds={num_folds}; lower it, or add some")
    return slice(num_examples * fold // num_folds, num_examples * (fold + 1) // num_folds)
