"""Compares the simulation with formulas."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from experiments.plan.simulate.all_reduce import done
from experiments.plan.simulate.distributions import ConstantTime, Gamma, Lognormal, ShiftedExponential
from experiments.plan.simulate.modes import MODES, Choices, simulate
from tests.support.simulated_clusters import make_cluster, make_machine

SHORT = Choices(num_steps=40)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "backup"])
def test_equal_workers_without_gradients_scale_linearly(mode: str) -> None:
    result = simulate(make_cluster(), mode, 6, SHORT)
    assert result.speedup == pytest.approx(6.0)
    assert result.examples_per_s == pytest.approx(60.0)
    assert result.waiting_fraction == pytest.approx(0.0)


def test_a_synchronous_step_is_the_slowest_worker_and_the_ring() -> None:
    # Ring of 5 over the network: 2 x 4 messages of a fifth of 0.5 GB at 1 GB/s, of which two thirds of computing hide as much.
    on = make_machine(network_latency_s=0.01)
    slow = make_cluster(on=on, num_bytes=500_000_000, num_slow=1, slowness=3.0)
    assert simulate(slow, "sync", 5, SHORT).step_s == pytest.approx(3.0)
    on = make_machine(network_latency_s=0.01, is_accelerator=False)
    assert simulate(make_cluster(on=on, num_bytes=500_000_000), "sync", 5, SHORT).step_s == pytest.approx(1 + 8 * 0.11)


def test_workers_on_fewer_cores_share_them() -> None:
    work_s = np.array([[1.0, 2.0, 6.0], [2.0, 2.0, 2.0]])
    # All three on 2 cores until 1 s of work is done (1.5 s), two until 2 s, then one; or all to the end.
    assert done(work_s, 2.0) == pytest.approx(np.array([[1.5, 2.5, 6.5], [3.0, 3.0, 3.0]]))
    on = make_machine(devices_per_node=6, concurrent_devices=2.0, is_accelerator=False)
    assert simulate(make_cluster(on=on), "sync", 6, SHORT).speedup == pytest.approx(2.0)
    assert simulate(make_cluster(on=on), "async", 6, SHORT).speedup == pytest.approx(2.0)


def test_the_slowest_of_exponential_workers_follows_the_harmonic_numbers() -> None:
    """Source: Renyi 1953: the mean of the largest of n is 1 + 1/2 + ... + 1/n."""
    result = simulate(make_cluster(ShiftedExponential(1.0, 1.0)), "sync", 8, Choices(num_steps=2000))
    assert 1 / result.updates_per_s == pytest.approx(sum(1 / k for k in range(1, 9)), rel=0.02)


def test_the_first_update_with_backup_workers_is_an_order_statistic() -> None:
    """Source: Renyi 1953: of n, the k-th comes after 1/n + 1/(n-1) + ... + 1/(n-k+1)."""
    first = [
        1
        / simulate(
            make_cluster(ShiftedExponential(1.0, 1.0)), "backup", 7, Choices(2, num_steps=1, seed=seed)
        ).updates_per_s
        for seed in range(1500)
    ]
    assert np.mean(first) == pytest.approx(sum(1 / (7 - k) for k in range(5)), rel=0.03)


def test_backup_workers_hide_a_straggler() -> None:
    straggling = make_cluster(num_slow=1, slowness=4.0)
    assert simulate(straggling, "sync_servers", 5, SHORT).step_s == pytest.approx(4.0)
    result = simulate(straggling, "backup", 5, Choices(1, num_steps=40))
    assert result.step_s == pytest.approx(1.0)
    assert result.examples_per_s == pytest.approx(40.0)
    # It is done after every fourth step, too late, and begins with the newest parameters.
    assert result.dropped_fraction == pytest.approx(0.25 / 4.25, rel=0.1)


def test_asynchronous_workers_do_not_wait_for_a_straggler() -> None:
    result = simulate(make_cluster(num_slow=1, slowness=4.0), "async", 5, Choices(num_steps=100))
    assert result.examples_per_s == pytest.approx(10 * (4 + 0.25), rel=0.01)


def test_staleness_of_equal_asynchronous_workers_is_the_number_of_others() -> None:
    result = simulate(make_cluster(apply_s=1e-3), "async", 7, SHORT)
    assert (result.staleness_mean, result.staleness_p95, result.staleness_max) == (6.0, 6.0, 6)
    assert result.stale_fractions == (0, 0, 0, 0, 0, 0, 1, 0, 0)


@pytest.mark.parametrize("spread", [Lognormal(1.0, 0.5), Gamma(1.0, 1.0)])
def test_mean_staleness_is_the_number_of_others_for_any_distribution(spread: Lognormal | Gamma) -> None:
    """Every update ages all gradients but its own by one: each gradient sees, on average, one of each of the others."""
    assert simulate(make_cluster(spread), "async", 7, Choices(num_steps=400)).staleness_mean == pytest.approx(
        6.0, rel=0.01
    )


def test_a_saturated_server_limits_the_speed() -> None:
    result = simulate(make_cluster(apply_s=0.5), "async", 20, SHORT)
    assert result.updates_per_s == pytest.approx(2.0)
    assert result.server_busy_fraction == pytest.approx(1.0, abs=0.05)
    assert simulate(make_cluster(apply_s=0.5, num_servers=4), "async", 20, SHORT).updates_per_s == pytest.approx(8.0)


def test_one_asynchronous_worker_takes_turns_with_its_server() -> None:
    # Pull 0.2 s, compute 1 s, push 0.2 s, apply 0.1 s; each message comes 0.01 s late.
    on = make_machine(link_latency_s=0.01)
    result = simulate(make_cluster(on=on, num_bytes=200_000_000, apply_s=0.1), "async", 1, SHORT)
    assert result.step_s == pytest.approx(1.52)
    assert result.waiting_fraction == pytest.approx(0.52 / 1.52)
    assert result.staleness_mean == 0


def test_pulls_are_limited_by_the_network_cards_of_server_and_worker() -> None:
    # 8 x 0.8 GB through 4 servers of 1 GB/s, both ways; one worker alone has 1 GB/s itself.
    many = make_cluster(ConstantTime(1e-9), num_bytes=800_000_000, num_servers=4)
    assert simulate(many, "sync_servers", 8, SHORT).step_s == pytest.approx(2 * 8 * 0.8 / 4)
    assert simulate(many, "sync_servers", 1, SHORT).step_s == pytest.approx(2 * 0.8)


def test_utilisation_law() -> None:
    """The servers are busy as long as updates x service take. Source: Denning and Buzen 1978, doi:10.1145/356733.356735."""
    result = simulate(make_cluster(Lognormal(1.0, 0.3), apply_s=0.02), "async", 9, Choices(num_steps=300))
    assert result.server_busy_fraction == pytest.approx(result.updates_per_s * 0.02, rel=0.01)


def test_one_group_is_synchronous_and_groups_of_one_are_asynchronous() -> None:
    spread = make_cluster(Lognormal(1.0, 0.3), apply_s=0.01)
    whole, single = (simulate(spread, "hybrid", 6, Choices(group_size=size, num_steps=300)) for size in (6, 1))
    assert whole.examples_per_s == pytest.approx(simulate(spread, "sync", 6, SHORT).examples_per_s, rel=0.03)
    assert whole.staleness_max == 0
    assert single.examples_per_s == simulate(spread, "async", 6, Choices(num_steps=300)).examples_per_s


def test_groups_are_equal_and_default_to_a_node() -> None:
    assert Choices(group_size=4).choose_group_size(10, 1) == 2
    assert Choices().choose_group_size(64, 8) == 8
    assert Choices().choose_group_size(64, 1) == 8
    assert Choices().choose_group_size(1, 8) == 1


def test_a_bound_on_staleness_holds_workers_back() -> None:
    straggling = make_cluster(num_slow=1, slowness=4.0)
    rates = [
        simulate(straggling, "async", 5, Choices(max_staleness=bound, num_steps=60)).examples_per_s
        for bound in (0, 2, None)
    ]
    assert rates[:2] == pytest.approx([12.5, 12.5], rel=0.1)  # in the long run all go as the slowest
    assert rates[2] == pytest.approx(42.5, rel=0.02)
    result = simulate(make_cluster(Gamma(1.0, 0.8)), "async", 6, Choices(max_staleness=3, num_steps=200))
    assert (
        result.examples_per_s
        < simulate(make_cluster(Gamma(1.0, 0.8)), "async", 6, Choices(num_steps=200)).examples_per_s
    )


@pytest.mark.parametrize("mode", MODES)
def test_one_seed_gives_one_result(mode: str) -> None:
    spread = make_cluster(Gamma(1.0, 0.5), num_bytes=50_000_000, apply_s=0.01)
    one, same, other = (simulate(spread, mode, 6, Choices(seed=seed, num_steps=40)) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_thousand_workers_can_be_simulated() -> None:
    result = simulate(make_cluster(Lognormal(1.0, 0.2), apply_s=1e-4), "async", 1000, Choices(num_steps=5))
    assert result.workers == 1000
    assert result.speedup > 900


def test_a_binomial_is_matched() -> None:
    """The number of workers that finish by a given time is binomial for any distribution."""
    done_by = ShiftedExponential(1.0, 1.0).draw(np.random.default_rng(0), (20_000, 10)) < 2.0
    share = 1 - np.exp(-2.0)
    expected = sum(comb(10, k) * share**k * (1 - share) ** (10 - k) for k in range(9, 11))
    assert (done_by.sum(axis=1) >= 9).mean() == pytest.approx(expected, rel=0.02)
