from typing import cast

import torch
from torch import Tensor, nn

from modules.model.layers.auxiliary import Auxiliary, OnFirst


def test_auxiliary_outputs_are_only_in_training_and_in_order() -> None:
    lower, upper = nn.Linear(3, 2), nn.Linear(4, 2)
    model = nn.Sequential(Auxiliary(lower), OnFirst(nn.Linear(3, 4)), Auxiliary(upper), OnFirst(nn.Linear(4, 2)))
    features = torch.randn(5, 3)
    own, first, second = cast(tuple[Tensor, ...], model(features))
    middle = cast(OnFirst, model[1]).layer(features)
    torch.testing.assert_close(first, lower(features))
    torch.testing.assert_close(second, upper(middle))
    outputs = model.eval()(features)
    assert isinstance(outputs, Tensor)
    assert torch.equal(outputs, own)


def test_auxiliary_losses_have_gradients_in_lower_layers() -> None:
    trunk = nn.Linear(3, 3)
    model = nn.Sequential(trunk, Auxiliary(nn.Linear(3, 2)), OnFirst(nn.Linear(3, 2)))
    _, said = cast(tuple[Tensor, Tensor], model(torch.randn(5, 3)))
    said.sum().backward()  # type: ignore[no-untyped-call]
    assert trunk.weight.grad is not None
    assert trunk.weight.grad.any()
