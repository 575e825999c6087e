"""Splits by groups for data sets without published splits; the name of an example gives its group."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from modules.data.base import DataError
from modules.data.tensors import check_at_least


class GroupSplit:
    """Divides groups into splits: the last groups are for test, those before for validation, the others for training."""

    def __init__(self, pattern: str, shuffle_seed: int | None, num_val: int, num_test: int) -> None:
        """
        Args:
            pattern: regular expression; its match in a name is the group.
            shuffle_seed: seed of the order of the groups; None: the order of the names.
            num_val: groups to validate on.
            num_test: groups to test on.
        """
        try:
            self.pattern = re.compile(pattern)
        except re.error as err:
            raise ValueError(
                f"data.group_pattern={pattern!r} is not a regular expression: {err}; '.*' matches whole names"
            ) from err
        check_at_least("data", 1, num_val_groups=num_val, num_test_groups=num_test)
        self.shuffle_seed, self.num_val, self.num_test = shuffle_seed, num_val, num_test

    def splits(self, names: Sequence[str]) -> list[str]:
        """Return "train", "val" or "test" for every name.

        Raises:
            DataError: the pattern does not match a name, or no group is left to train on.
        """
        matches = [self.pattern.search(name) for name in names]
        if unmatched := [name for name, match in zip(names, matches, strict=True) if match is None]:
            raise DataError(
                f"data.group_pattern={self.pattern.pattern!r} does not match the name {unmatched[0]!r}; every name needs a "
                "group; '.*' makes every name a group"
            )
        groups = [match.group() for match in matches if match is not None]
        order = list(dict.fromkeys(groups))
        num_train = len(order) - self.num_val - self.num_test
        if num_train < 1:
            raise DataError(
                f"data.num_val_groups={self.num_val} and data.num_test_groups={self.num_test} leave none of {len(order)} groups "
                f"to train on; lower them, or see data.group_pattern={self.pattern.pattern!r}"
            )
        if self.shuffle_seed is not None:  # NumPy keeps RandomState's sequence stable
            order = [order[number] for number in np.random.RandomState(self.shuffle_seed).permutation(len(order))]
        split_of = dict.fromkeys(order, "test")
        split_of.update(dict.fromkeys(order[: num_train + self.num_val], "val"))
        split_of.update(dict.fromkeys(order[:num_train], "train"))
        return [split_of[group] for group in groups]
