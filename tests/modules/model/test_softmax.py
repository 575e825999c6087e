import pytest
import torch

from modules.model.base import Layered, Shard
from modules.model.softmax import Softmax


def test_softmax_starts_with_every_class_equally_likely() -> None:
    logits = Softmax(num_features=15, num_classes=4)(torch.rand(2, 1, 3, 5))
    assert logits.shape == (2, 4)
    assert (logits == 0).all()


def test_softmax_learns_that_one_feature_means_one_class() -> None:
    model = Softmax(num_features=3, num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(torch.eye(3)), torch.tensor([2, 0, 1]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert model(torch.eye(3)).argmax(dim=1).tolist() == [2, 0, 1]


def test_softmax_offers_its_layers() -> None:
    model = Softmax(num_features=6, num_classes=4)
    torch.nn.init.normal_(next(model.parameters()))
    inputs = outputs = torch.rand(5, 2, 3)
    assert isinstance(model, Layered)
    for layer in model.layers():
        outputs = layer(outputs)
    assert torch.equal(outputs, model(inputs))


def test_softmax_splits_by_class() -> None:
    model = Softmax(num_features=6, num_classes=4)
    assert model.shards() == {"stack.1": Shard("classes", 4, "num_classes")}
    assert isinstance(model.get_submodule("stack.1"), torch.nn.Linear)


def test_softmax_wants_at_least_one_class() -> None:
    with pytest.raises(ValueError, match="Softmax wants num_features and num_classes of at least 1, but got 3 and 0"):
        Softmax(num_features=3, num_classes=0)
