from __future__ import annotations

import pytest
import torch

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.core.errors import PlanError
from experiments.train.data_digest import fingerprint


def test_initial_weights_depend_only_on_the_seed() -> None:
    config = compose(["model=mlp"]).config
    first = assemble(config).setup.model.state_dict()
    torch.rand(7)  # whatever ran before
    again, other = (assemble({**config, "seed": seed}).setup.model.state_dict() for seed in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stack.1.weight"], other["stack.1.weight"])


def test_other_data_has_another_fingerprint() -> None:
    config = compose([]).config
    digits = assemble(config).data
    fewer = assemble({**config, "data": {**config["data"], "num_train": 1296}}).data
    prints = [fingerprint(digits.load(name)) for name in ("train", "val", "test")]
    assert fingerprint(digits.load("train")) == prints[0]
    assert len({*prints, fingerprint(fewer.load("train"))}) == 4
    assert {len(digest) for digest in prints} == {33}


def test_the_problems_of_all_components_are_reported_together() -> None:
    config = compose(["model.dropout_prob=2", "objective.label_smoothing_prob=3", "optimizer.lr=-1", "name=x"]).config
    with pytest.raises(PlanError, match="the plan for 'x' has 3 problems") as caught:
        assemble(config)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["model", "objective", "optimizer"]
