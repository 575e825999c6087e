from __future__ import annotations

import pytest

from modules.parallel.topology import RankCoordinates, Topology


def test_the_model_axis_changes_fastest_and_the_pipeline_axis_slowest() -> None:
    topology = Topology(pipe=2, data=3, model=5)
    assert topology.world == 30
    assert [topology.coordinates(rank) for rank in (0, 1, 5, 15, 29)] == [
        RankCoordinates(0, 0, 0), RankCoordinates(0, 0, 1), RankCoordinates(0, 1, 0), RankCoordinates(1, 0, 0),
        RankCoordinates(1, 2, 4),
    ]  # fmt: skip
    assert all(topology.rank(topology.coordinates(rank)) == rank for rank in range(30))


def test_peers_differ_along_one_axis_only() -> None:
    topology = Topology(pipe=2, data=3, model=5)
    assert topology.peers(7, "model") == [5, 6, 7, 8, 9]
    assert topology.peers(7, "data") == [2, 7, 12]
    assert topology.peers(7, "pipe") == [7, 22]


def test_a_rank_beyond_the_last_is_refused() -> None:
    with pytest.raises(ValueError, match="has ranks 0 to 5, but got 6"):
        Topology(data=6).coordinates(6)
