from __future__ import annotations

import torch

from experiments.compose import compose
from experiments.fingerprint import fingerprint
from experiments.parts import make_parts


def test_initial_weights_follow_from_the_seed_alone() -> None:
    config = compose(["model=mlp"]).config
    first = make_parts(config).learner.model.state_dict()
    torch.rand(7)  # whatever ran before
    again, other = (make_parts({**config, "seed": seed}).learner.model.state_dict() for seed in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stack.1.weight"], other["stack.1.weight"])


def test_other_data_has_another_fingerprint() -> None:
    config = compose([]).config
    digits = make_parts(config).data
    fewer = make_parts({**config, "data": {**config["data"], "num_train": 1296}}).data
    prints = [fingerprint(digits.load(name)) for name in ("train", "val", "test")]
    assert fingerprint(digits.load("train")) == prints[0]
    assert len({*prints, fingerprint(fewer.load("train"))}) == 4
    assert {len(digest) for digest in prints} == {16}
