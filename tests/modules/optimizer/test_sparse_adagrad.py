from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adagrad

from modules.optimizer import sparse_adagrad
from modules.optimizer.sparse_adagrad import SparseAdagrad

ROWS, NUMBERS = 11, 3


@pytest.fixture(autouse=True)
def _unchecked() -> None:
    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # the default, of which torch warns


def gradient(seed: int) -> Tensor:
    """Sparse, most rows several times."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(ROWS, (1, 30), generator=generator)
    return torch.sparse_coo_tensor(
        rows, torch.randn(30, NUMBERS, generator=generator), (ROWS, NUMBERS), check_invariants=True
    )


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("coalesced", [False, True])
def test_its_updates_are_those_of_torch(monkeypatch: pytest.MonkeyPatch, coalesced: bool, maximize: bool) -> None:
    monkeypatch.setattr(sparse_adagrad, "ROWS_AT_ONCE", 4)
    kept: dict[type[Adagrad], tuple[list[nn.Parameter], Adagrad]] = {}
    for kind in (SparseAdagrad, Adagrad):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(ROWS, NUMBERS)), nn.Parameter(torch.randn(2))]
        kept[kind] = (
            parameters,
            kind(parameters, lr=0.3, lr_decay=0.1, initial_accumulator_value=0.2, maximize=maximize),
        )
        for seed in range(3):
            parameters[0].grad = gradient(seed).coalesce() if coalesced else gradient(seed)
            parameters[1].grad = torch.tensor([1.0, -2.0])
            kept[kind][1].step()
            assert parameters[0].grad is not None
    (own, ours), (other, torchs) = kept[SparseAdagrad], kept[Adagrad]
    for one, expected in zip(own, other, strict=True):
        torch.testing.assert_close(one, expected)
        for key, value in torchs.state[expected].items():
            torch.testing.assert_close(ours.state[one][key], value)


def test_a_closure_is_called_and_weight_decay_refused() -> None:
    table = nn.Parameter(torch.zeros(ROWS, NUMBERS))

    def closure() -> float:
        table.grad = gradient(0)
        return 0.5

    assert SparseAdagrad([table]).step(closure) == 0.5
    with pytest.raises(RuntimeError, match="SparseAdagrad wants weight_decay=0 for sparse gradients"):
        SparseAdagrad([table], weight_decay=0.1).step()


def test_other_sparse_gradients_are_left_to_torch() -> None:
    actual = []
    for kind in (SparseAdagrad, Adagrad):
        parameter = nn.Parameter(torch.ones(ROWS, NUMBERS))
        places = torch.tensor([[0, 4, 4], [1, 2, 2]])  # single numbers, and no rows
        parameter.grad = torch.sparse_coo_tensor(places, torch.tensor([1.0, 2.0, 3.0]), (ROWS, NUMBERS))
        kind([parameter], lr=0.3).step()
        actual.append(parameter.detach())
    torch.testing.assert_close(actual[0], actual[1])
