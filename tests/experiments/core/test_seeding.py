from experiments.core.seeding import derive_seed


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(0) == 7_210_762_507_766_007_076
    assert derive_seed(17, "order", 3) == 452_102_327_143_879_874


def test_seeds_of_different_labels_differ() -> None:
    labels: list[tuple[str | int, ...]] = [
        (),
        ("a",),
        ("b",),
        (1,),
        ("1",),
        ("a", 1),
        ("a", 11),
        ("ab", "c"),
        ("a", "bc"),
    ]
    seeds = {derive_seed(seed, *label) for seed in (0, 1) for label in labels}
    assert len(seeds) == 2 * len(labels)


def test_a_seed_fits_63_bits() -> None:
    assert all(0 <= derive_seed(0, step) < 2**63 for step in range(500))
