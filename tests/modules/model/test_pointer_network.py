import torch

from modules.model.pointer_network import PointerNetwork


def test_the_outputs_are_the_end_and_the_points_and_know_no_later_places() -> None:
    model = PointerNetwork(num_features=2, hidden_size=5)
    points, places = torch.rand(3, 4, 2), torch.tensor([[0, 1, 2], [0, 4, 3], [0, 2, 1]])
    logits = model((points, places))
    assert logits.shape == (3, 3, 5)
    assert torch.allclose(model((points, places[:, :1])), logits[:, :1], atol=1e-6)
    others = places.clone()
    others[:, 2] = 3
    assert torch.equal(model((points, others))[:, :2], logits[:, :2])
    assert not torch.equal(model((points, others))[0, 2], logits[0, 2])
