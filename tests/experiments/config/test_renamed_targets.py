from __future__ import annotations

import pytest

from experiments.components.instantiate import instantiate
from experiments.config import signature
from experiments.config.compose import compose
from experiments.config.renamed_targets import TARGETS
from experiments.core.errors import InputError


@pytest.mark.parametrize(("old", "new"), TARGETS.items())
def test_a_moved_class_is_refused_with_its_new_path(old: str, new: str) -> None:
    assert signature.read(new).defined_in == new.rpartition(".")[0]
    key = old.split(".")[1]
    with pytest.raises(InputError) as err:
        compose([f"{key}._target_={old}"])
    expected = f"{key}._target_={old} has moved; it is now called {new!r}"
    assert [problem for problem in err.value.problems if expected in problem], err.value.problems
    with pytest.raises(InputError, match=f"it is now called {new!r}"):
        instantiate({"_target_": old}, key)
