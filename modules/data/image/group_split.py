"""Splits of a set without published ones: what belongs together by its name stays together."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from modules.data.base import DataError
from modules.data.tensors import check_at_least


class GroupSplit:
    """Deals groups of names to the splits: the last to test, those before them to validate, the others to train."""

    def __init__(self, pattern: str, shuffle_seed: int | None, num_val: int, num_test: int) -> None:
        """
        Args:
            pattern: regular expression; what it finds in a name is the name of its group.
            shuffle_seed: of the order of the groups before they are dealt; None: as they come.
            num_val: groups to validate on.
            num_test: groups to test on.
        """
        try:
            self.pattern = re.compile(pattern)
        except re.error as err:
            raise ValueError(
                f"data.group_pattern={pattern!r} is no regular expression: {err}; '.*' takes whole names"
            ) from err
        check_at_least("data", 1, num_val_groups=num_val, num_test_groups=num_test)
        self.shuffle_seed, self.num_val, self.num_test = shuffle_seed, num_val, num_test

    def splits(self, names: Sequence[str]) -> list[str]:
        """ "train", "val" or "test" of every name.

        Raises:
            DataError: the pattern finds nothing in a name, or no group is left to train on.
        """
        found = [self.pattern.search(name) for name in names]
        if strangers := [name for name, match in zip(names, found, strict=True) if match is None]:
            raise DataError(
                f"data.group_pattern={self.pattern.pattern!r} finds nothing in the name {strangers[0]!r}; every name has to "
                "have a group; '.*' makes every name its own"
            )
        groups = [match.group() for match in found if match is not None]
        order = list(dict.fromkeys(groups))
        num_train = len(order) - self.num_val - self.num_test
        if num_train < 1:
            raise DataError(
                f"data.num_val_groups={self.num_val} and data.num_test_groups={self.num_test} leave none of {len(order)} groups "
                f"to train on; lower them, or see data.group_pattern={self.pattern.pattern!r}"
            )
        if self.shuffle_seed is not None:  # NumPy promises RandomState's numbers for ever
            order = [order[number] for number in np.random.RandomState(self.shuffle_seed).permutation(len(order))]
        split_of = dict.fromkeys(order, "test")
        split_of.update(dict.fromkeys(order[: num_train + self.num_val], "val"))
        split_of.update(dict.fromkeys(order[:num_train], "train"))
        return [split_of[group] for group in groups]
