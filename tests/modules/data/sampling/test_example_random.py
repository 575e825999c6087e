import torch

from modules.data.sampling.example_random import ExampleRandom

SEEDS = torch.tensor([0, 1, 7, 2**63 - 1, -1])


def test_the_numbers_of_an_example_depend_only_on_its_seed_and_the_call() -> None:
    for rows in (slice(0, 1), slice(2, 5)):
        whole, part = ExampleRandom(SEEDS), ExampleRandom(SEEDS[rows])
        assert torch.equal(part.uniform(2, 3), whole.uniform(2, 3)[rows])
        assert torch.equal(part.integers(9, 4), whole.integers(9, 6)[rows, :4]), "a longer batch draws the same first"
        assert torch.equal(part.uniform(), whole.uniform()[rows]), "whatever the call before drew"
        assert part.generator(0).initial_seed() == whole.generator(rows.start).initial_seed()


def test_numbers_are_uniform_and_unrelated_over_calls_examples_and_places() -> None:
    random = ExampleRandom(torch.arange(300))
    columns = torch.cat([random.uniform(40), random.uniform(40), random.uniform()[:, None]], dim=1)
    assert columns.dtype == torch.float32
    assert len(set(columns.flatten().tolist())) > 0.99 * columns.numel()
    assert 0 <= columns.min() < 1e-3
    assert 0.999 < columns.max() < 1
    torch.testing.assert_close(columns.mean(), torch.tensor(0.5), atol=0.01, rtol=0)
    for table in (columns, columns.T):
        assert (torch.corrcoef(table) - torch.eye(len(table))).abs().max() < 0.55


def test_integers_reach_every_number_below_the_limit_equally() -> None:
    counts = torch.bincount(ExampleRandom(torch.arange(300)).integers(7, 100).flatten(), minlength=7)
    assert counts.shape == (7,)
    torch.testing.assert_close(counts / counts.sum(), torch.full((7,), 1 / 7), atol=0.01, rtol=0)
    assert ExampleRandom(SEEDS).integers(1).tolist() == [0] * 5
    assert ExampleRandom(SEEDS).integers(2**32).min() >= 0
