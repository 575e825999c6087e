"""`parallel=auto`: what it compares, drops and chooses."""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.config.rules.topology import is_auto
from experiments.core.errors import InputError, PlanError
from experiments.plan.estimate import estimate, make_layout, memory_bytes
from experiments.plan.fit import check_fit
from experiments.plan.layout_search import USABLE_MEMORY, Candidate, SearchResult, compare, search
from experiments.plan.plan import Plan, make_plan
from modules.parallel.auto import Auto
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.topology import Topology
from tests.conftest import Lathe

TEXT = (
    "data=shakespeare_char", "data.root=/", "data.folder=.", "data.num_train=null", "data.vocab_size=64", "evaluator=perplexity",
    "checkpoint.best_metric=val/loss_nats", "checkpoint.best_mode=min",
)  # fmt: skip
LARGE = ("data.vocab_size=32000", "data.context_tokens=2048", "precision=bf16")


def composed(*overrides: str) -> Experiment:
    return compose([*overrides, "parallel=auto"])


@cache
def chosen(*overrides: str) -> SearchResult:
    return compare(composed(*overrides))


@cache
def planned(*overrides: str) -> tuple[dict[str, Any], Plan]:
    """Compose and plan as a command does, without the check of data files."""
    config = compose([*overrides]).config
    data = config["data"]
    plan = make_plan({**config, "data": {name: value for name, value in data.items() if name != "files"}})
    check_fit(config, plan)
    return config, plan


def auto(**named: int) -> Auto:
    return Auto(stages=[0, 1, 2, 3], offload=False, max_pipe=named.get("max_pipe"), max_model=named.get("max_model"))


def test_every_layout_of_all_devices_is_listed_once() -> None:
    layouts = auto().layouts(nodes=2, devices_per_node=4)
    assert len(layouts) == len(set(layouts))
    assert layouts[0] == ParallelLayout("single")
    expected = {
        ParallelLayout("single"),
        ParallelLayout("data", Topology(data=8)),
        ParallelLayout("zero", Topology(model=4, data=2)),
    }
    for pipe, model in itertools.product((1, 2, 4, 8), (1, 2, 4)):
        if 8 % (pipe * model) == 0:
            topology = Topology(pipe, 8 // pipe // model, model)
            stages = [1] if pipe > 1 else [1, 2, 3] if model == 1 else [0, 1, 2, 3]
            expected |= {ParallelLayout("pipeline" if pipe > 1 else "zero", topology, stage) for stage in stages}
    assert set(layouts) == expected


def test_limits_exclude_longer_axes() -> None:
    layouts = Auto(stages=[2], offload=True, max_pipe=1, max_model=1).layouts(1, 4)
    assert [(layout.engine, layout.stage) for layout in layouts] == [("single", 0), ("data", 0), ("zero", 2)]
    assert auto(max_model=8).layouts(2, 4)[-1].topology.world == 8
    assert max(layout.topology.model for layout in auto(max_model=8).layouts(2, 4)) == 8  # over both nodes
    assert {layout.topology.model for layout in auto().layouts(1, 6)} == {1, 2, 3, 6}
    offloaded = Auto(stages=[1, 3], offload=True, max_pipe=1, max_model=1).layouts(1, 4)[-1]
    assert offloaded == ParallelLayout("zero", Topology(data=4), 3, "weights_and_optimizer")


@pytest.mark.parametrize(
    ("stages", "max_pipe", "error"),
    [([4], None, "ZeRO stages from 0 to 3, but got 4"), ([0], 0, "max_pipe of at least 1")],
)
def test_an_invalid_limit_is_refused(stages: list[int], max_pipe: int | None, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Auto(stages, offload=False, max_pipe=max_pipe, max_model=None)


@pytest.mark.parametrize("model", ["mlp", "gpt_nano"])
def test_exactly_the_valid_layouts_are_compared(model: str) -> None:
    """Every valid layout is there once, and no other."""
    overrides = [f"model={model}", *(TEXT if model == "gpt_nano" else ()), "hardware=cpu_4", "batch_size_global=24"]
    choice = chosen(*overrides)
    for candidate in choice.ranked:
        assert make_layout(*planned(*overrides, *candidate.overrides)) == candidate.layout
    layouts = {(each.layout.engine, each.layout.stage, each.layout.topology) for each in choice.ranked}
    assert len(layouts) == len(choice.ranked)
    assert layouts == set(_legal(overrides))


def _legal(overrides: list[str]) -> list[tuple[str, int, Topology]]:
    """Find the valid layouts by composing and planning all overrides, except ZeRO 0 without slices, which is parallel=data."""
    override_lists = [["parallel=single", "hardware.devices_per_node=1"], ["parallel=data"]]
    override_lists += [[f"parallel=zero{stage}"] for stage in (1, 2, 3)]
    override_lists += [["parallel=model"]]
    override_lists += [["parallel=model_data", f"parallel.stage={stage}", "parallel.model=2"] for stage in range(4)]
    override_lists += [
        ["parallel=three_d", f"parallel.pipe={pipe}", f"parallel.model={model}", "parallel.data=auto"]
        for pipe in (2, 3, 4)
        for model in (1, 2, 3, 4)
    ]
    layouts: list[tuple[str, int, Topology]] = []
    for layout_overrides in override_lists:
        try:
            layout = make_layout(*planned(*overrides, *layout_overrides))
        except InputError:
            continue
        layouts.append((layout.engine, layout.stage, layout.topology))
    return layouts


PAIRS = [
    # So small that whatever ranks tell each other takes longer than the work itself.
    (("model=mlp", "hardware.cpu_cores=4", "hardware=cpu_4"), "single batch_size_per_device=64"),
    # Enough work to share, and weights so few that nothing is worth sharing out.
    (
        ("model=lenet", "batch_size_global=512", "hardware.cpu_cores=4", "hardware=cpu_4"),
        "data data=4 batch_size_per_device=128",
    ),
    # It fits whole, and its gradients travel while the backward pass still runs; more than half of a share at once does not fit.
    (
        ("model=gpt_small", *TEXT, *LARGE, "batch_size_global=512", "hardware=h100_8"),
        "data data=8 batch_size_per_device=32",
    ),
    # Weights, gradients and state of 7 billion are 108 GB: shared out, they leave room for the whole share of the batch at
    # once. NVLink gathers them behind the work; slices would exchange activations eight times a layer.
    (
        ("model=gpt_7b", *TEXT, *LARGE, "batch_size_global=64", "hardware=h100_8"),
        "zero3 data=8 batch_size_per_device=8",
    ),
    # Over 64 GPUs the state alone is small, so the weights may stay where they are: InfiniBand then carries less.
    (
        ("model=gpt_7b", *TEXT, *LARGE, "batch_size_global=512", "hardware=h100_8x8"),
        "zero1 data=64 batch_size_per_device=8",
    ),
    # 40 GB hold a quarter of all, and not the gradients' buckets of ZeRO besides: only slices do.
    (
        ("model=gpt_7b", *TEXT, *LARGE, "batch_size_global=64", "hardware=a100_4"),
        "model model=4 batch_size_per_device=4",
    ),
]


@pytest.mark.parametrize(("overrides", "best"), PAIRS, ids=[" ".join((o[0], o[-1])) for o, _ in PAIRS])
def test_the_expected_layout_is_chosen(overrides: tuple[str, ...], best: str) -> None:
    experiment = composed(*overrides)
    choice = compare(experiment)
    first = choice.ranked[0]
    assert f"{first.name} batch_size_per_device={first.layout.batch_size_per_device}" == best
    others = [candidate.cost.total_s for candidate in choice.ranked[1:]]
    assert others == sorted(others)
    available_bytes = USABLE_MEMORY * memory_bytes(experiment.config["hardware"])
    assert all(candidate.memory_bytes <= available_bytes for candidate in choice.ranked)


def test_the_compared_memory_is_that_of_the_plan() -> None:
    overrides = ["model=gpt_nano", *TEXT, "hardware=cpu_4", "batch_size_global=24"]
    for candidate in chosen(*overrides).ranked:
        counted = estimate(*planned(*overrides, *candidate.overrides))
        assert candidate.memory_bytes == pytest.approx(counted.total_bytes, rel=1e-3)
        if counted.cost is not None:
            assert candidate.cost.total_s == pytest.approx(counted.cost.total_s, rel=1e-3)


def test_a_requested_micro_batch_size_is_used() -> None:
    choice = chosen("model=mlp", "hardware=cpu_4", "batch_size_per_device=4")
    assert {candidate.layout.batch_size_per_device for candidate in choice.ranked} == {4}
    refused = chosen("model=mlp", "hardware=cpu_4", "batch_size_per_device=32")
    assert any("does not divide 16, the device's share" in reason for reason in refused.dropped)


def test_a_trial_has_the_chosen_layout_instead_of_auto() -> None:
    seen: list[SearchResult] = []
    experiment = composed("model=mlp", "hardware=cpu_4", "parallel.stages=[1]", "batch_size_global=1024")
    assert is_auto(experiment.config)
    best_experiment = search(experiment, compose, show=seen.append)
    assert not is_auto(best_experiment.config)
    best: Candidate = seen[0].ranked[0]
    assert set(best.overrides) <= set(best_experiment.overrides)
    assert not [word for word in best_experiment.overrides if "auto" in word or "stages" in word]
    assert "auto" not in yaml.safe_dump(best_experiment.config["parallel"])
    assert make_layout(best_experiment.config, make_plan(best_experiment.config)) == best.layout
    assert search(best_experiment, compose) is best_experiment


def test_a_single_process_uses_one_device() -> None:
    config = search(composed("model=mlp", "hardware=h100_8x8"), compose).config
    assert (config["hardware"]["nodes"], config["hardware"]["devices_per_node"]) == (1, 1)
    assert make_plan(config).topology == Topology()


def test_if_no_layout_fits_the_smallest_is_reported_with_hints() -> None:
    with pytest.raises(PlanError) as error:
        chosen("model=gpt_7b", "model.recompute=false", *TEXT, *LARGE, "hardware=a100_4", "hardware.memory_gb=20")
    assert "parallel=auto: none of 13 layouts can run; use more devices or a smaller model" in str(error.value)
    assert "set model.recompute=true, set parallel.offload=true" in str(error.value)
    assert f"MB, but 18,000 MB can be used ({USABLE_MEMORY:.0%} of hardware.memory_gb)" in str(error.value)


@pytest.mark.parametrize(
    ("needs", "stages"),
    [
        (["callback=ema"], {0, 1, 2}),
        (["gradient=noise"], {0}),
        (
            [
                "optimizer=sgd",
                "~optimizer.momentum",
                "~optimizer.nesterov",
                "optimizer._target_=torch.optim._adafactor.Adafactor",
            ],
            {0},
        ),
    ],
    ids=["callback", "transform", "optimizer"],
)
def test_layouts_that_do_not_serve_what_the_training_needs_are_left_out(needs: list[str], stages: set[int]) -> None:
    overrides = ["model=mlp", "hardware=cpu_4", "parallel=auto", *needs]
    result = compare(compose(overrides, trust=["torch"]))  # for Adafactor
    assert {candidate.layout.stage for candidate in result.ranked} == stages
    assert {candidate.layout.engine for candidate in result.ranked} == {"single", "data"} | (
        {"zero"} if stages > {0} else set()
    )


def test_if_no_layout_is_valid_the_reasons_are_reported_with_hints() -> None:
    with pytest.raises(
        PlanError, match=r"correct the problems below\n.*batch_size_per_device=7 does not divide .*; try 4 or 8"
    ):
        chosen("hardware=cpu_4", "batch_size_per_device=7")


def test_other_problems_are_reported_before_the_comparison() -> None:
    experiment = composed("hardware=cpu_4", "precision=fp16", "schedule=cosine", "schedule.warmup_steps=301")
    with pytest.raises(PlanError) as error:
        search(experiment, compose)
    assert [problem.partition("=")[0] for problem in error.value.problems] == ["precision", "schedule.warmup_steps"]


def test_a_plan_shows_the_layouts_and_then_the_best_one(lathe: Lathe, tmp_path: Path) -> None:
    done = lathe("plan", "model=mlp", "parallel=auto", "hardware=cpu_4", "batch_size_global=64", "parallel.max_pipe=2")
    assert done.returncode == 0, done.stderr
    assert "layouts of 'mlp-digits'" in done.stdout
    assert re.search(r"│ 1\s+│ single ", done.stdout)
    assert "= 1 device x 1 accumulated x 64 at once" in done.stdout
    pipeline = lathe("plan", "model=mlp", "parallel=pipeline", "hardware.devices_per_node=2")
    assert "stages: ideal bubble 11.1% of a step, with 8 micro-batches" in pipeline.stdout
