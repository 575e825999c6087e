import math
import re

import pytest
import torch

from modules.data.base import IGNORED
from modules.objective.cross_entropy import CrossEntropy


def test_cross_entropy_of_equal_logits_is_the_log_of_the_classes() -> None:
    loss, metrics = CrossEntropy()(torch.zeros(2, 5, requires_grad=True), torch.tensor([4, 0]))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(math.log(5))
    assert loss.requires_grad
    assert metrics.keys() == {"loss_nats"}
    assert torch.equal(metrics["loss_nats"], loss.detach())
    assert not metrics["loss_nats"].requires_grad


def test_cross_entropy_is_the_mean_over_the_batch() -> None:
    logits, targets = torch.randn(3, 5), torch.tensor([4, 0, 2])
    loss, _ = CrossEntropy()(logits, targets)
    each = [-math.log(logits[row].softmax(0)[target]) for row, target in enumerate(targets.tolist())]
    assert float(loss) == pytest.approx(sum(each) / 3, rel=1e-5)


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    logits, targets = torch.randn(3, 5), torch.tensor([4, 0, 2])
    smooth = 0.9 * torch.eye(5)[targets] + 0.1 / 5
    loss, _ = CrossEntropy(label_smoothing_prob=0.1)(logits, targets)
    torch.testing.assert_close(loss, -(smooth * logits.log_softmax(1)).sum(1).mean())


def test_cross_entropy_of_words_is_the_mean_over_all_of_them() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    for objective in (CrossEntropy(), CrossEntropy(label_smoothing_prob=0.1)):
        loss, metrics = objective(logits, targets)
        assert loss.shape == metrics["loss_nats"].shape == ()
        each = [float(objective(logits[:, time], targets[:, time])[0]) for time in range(3)]
        assert float(loss) == pytest.approx(sum(each) / 3, rel=1e-5)


@pytest.mark.parametrize("objective", [CrossEntropy(), CrossEntropy(label_smoothing_prob=0.1)])
def test_every_text_counts_alike_by_its_words_and_padding_changes_nothing(objective: CrossEntropy) -> None:
    logits, targets = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(5, (2, 3))
    targets[1, 1:] = IGNORED
    loss, _ = objective(logits, (targets, torch.tensor([7, 8])))
    rows = [objective(logits[0], targets[0])[0], objective(logits[1, :1], targets[1, :1])[0]]
    torch.testing.assert_close(loss, (rows[0] + rows[1]) / 2)
    padded = torch.nn.functional.pad(targets, (0, 2), value=IGNORED)
    torch.testing.assert_close(objective(torch.nn.functional.pad(logits, (0, 0, 0, 2), value=9.0), padded)[0], loss)


def test_auxiliary_classifiers_learn_the_same_targets_by_their_weight() -> None:
    own, lower, upper = (torch.randn(3, 5, requires_grad=True) for _ in range(3))
    targets = torch.tensor([4, 0, 2])
    plain = [CrossEntropy(label_smoothing_prob=0.1)(logits, targets)[0] for logits in (own, lower, upper)]
    loss, metrics = CrossEntropy(label_smoothing_prob=0.1, aux_weight=0.3)((own, lower, upper), targets)
    torch.testing.assert_close(loss, plain[0] + 0.3 * (plain[1] + plain[2]))
    assert metrics.keys() == {"loss_nats", "aux_loss_nats"}
    torch.testing.assert_close(metrics["loss_nats"], plain[0].detach())
    torch.testing.assert_close(metrics["aux_loss_nats"], (plain[1].detach() + plain[2].detach()) / 2)
    torch.testing.assert_close(torch.autograd.grad(loss, upper)[0], 0.3 * torch.autograd.grad(plain[2], upper)[0])


def test_auxiliary_classifiers_without_a_weight_are_reported() -> None:
    outputs = (torch.zeros(3, 5), torch.zeros(3, 5))
    with pytest.raises(
        ValueError, match=r"objective\.aux_weight=0 leaves 1 auxiliary classifiers of the model untrained"
    ):
        CrossEntropy(aux_weight=0.0)(outputs, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"aux_weight of at least 0, but got -0\.3"):
        CrossEntropy(aux_weight=-0.3)


def test_cross_entropy_refuses_what_are_no_logits_and_classes() -> None:
    with pytest.raises(ValueError, match=re.escape("but got [3, 5] and [2]; end the model in one logit per class")):
        CrossEntropy()(torch.zeros(3, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=re.escape("but got [2, 3, 5] and [2, 5]; end the model in one logit per class")
    ):
        CrossEntropy()(torch.zeros(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape("targets as [batch, ...], but got [5] and []")):
        CrossEntropy()(torch.zeros(5), torch.tensor(1))
    with pytest.raises(ValueError, match=re.escape("CrossEntropy wants label_smoothing_prob in [0, 1], but got 1.5")):
        CrossEntropy(label_smoothing_prob=1.5)
