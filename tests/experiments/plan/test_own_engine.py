"""An engine from outside the repository, whose arguments have other names, is planned, searched and simulated like Lathe's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.compose import compose
from experiments.config.rules.engine import read_engine
from experiments.config.rules.topology import is_auto
from experiments.core.errors import InputError
from experiments.launch.async_supervisor import is_supervised
from experiments.plan.estimate import estimate, make_layout
from experiments.plan.layout_search import compare
from experiments.plan.plan import make_plan
from experiments.plan.simulate.from_run import find_mode, read_choices

OWN = """
from modules.parallel.auto import Auto
from modules.parallel.base import Engine
from modules.parallel.data import DataParallel
from modules.parallel.deepspeed_pipeline import Pipeline
from modules.parallel.deepspeed_zero import Zero
from modules.parallel.parameter_server import ParameterServer


class Replicas(DataParallel):
    is_component = True
    settings = {"data": "num_replicas"}

    def __init__(self, num_replicas) -> None:
        super().__init__(num_replicas)


class Shards(Zero):
    is_component = True
    settings = {"data": "num_replicas", "model": "num_slices", "stage": "sharding", "offload": "moves_to_host"}

    def __init__(self, num_replicas, num_slices=1, sharding: int = 2, moves_to_host: str = "none") -> None:
        super().__init__(sharding, moves_to_host, num_replicas, num_slices, {})


class Stages(Pipeline):
    is_component = True
    settings = {"pipe": "num_stages", "data": "num_replicas", "partition": "cuts", "stage": 1}

    def __init__(self, num_stages, num_replicas=1, cuts="parameters") -> None:
        super().__init__(num_stages, num_replicas, 1, cuts, {})


class Servers(ParameterServer):
    is_component = True
    settings = {"data": "num_replicas", "num_servers": "shards", "num_backup_workers": "spare", "max_staleness": "lead",
                "group_size": "group"}

    def __init__(self, num_replicas, shards: int = 2, spare: int = 0, lead: int | None = None, group: int = 1) -> None:
        super().__init__(num_replicas, shards, group, spare, lead)


class Loner:  # its arguments have the names of Lathe's settings, and other meanings
    is_component = True

    def __init__(self, stage: str, model: str, num_servers: str) -> None: ...


class Chooser(Auto):
    is_component = True
"""
FOUR = "hardware=cpu_4"


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_engines.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    options = {
        "my_replicas": {"_target_": "strange_engines.Replicas", "num_replicas": "auto"},
        "my_shards": {"_target_": "strange_engines.Shards", "num_replicas": "auto"},
        "my_stages": {"_target_": "strange_engines.Stages", "num_stages": 2, "num_replicas": "auto"},
        "my_servers": {"_target_": "strange_engines.Servers", "num_replicas": "auto"},
        "loner": {"_target_": "strange_engines.Loner", "stage": "three", "model": "mine", "num_servers": "two"},
        "my_auto": {
            "_target_": "strange_engines.Chooser",
            "stages": [2],
            "offload": False,
            "max_pipe": 2,
            "max_model": 1,
        },
    }
    for name, node in options.items():
        path = tmp_path / "own_conf" / "parallel" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(node))


@pytest.fixture
def config_of(tmp_path: Path) -> Any:
    return lambda *overrides: compose(
        ["model=mlp", *overrides], config_dirs=[tmp_path / "own_conf"], trust=["strange_engines"]
    )


@pytest.mark.parametrize(
    ("own", "same"),
    [
        (("parallel=my_replicas",), ("parallel=data",)),
        (("parallel=my_shards",), ("parallel=zero2",)),
        (("parallel=my_shards", "+parallel.sharding=3", "+parallel.num_slices=2"),
         ("parallel=model_data", "parallel.stage=3")),
        (("parallel=my_stages", "+parallel.cuts=[0, 2]"), ("parallel=pipeline_data", "parallel.partition=[0, 2]")),
        (("parallel=my_servers",), ("parallel=async", "parallel.num_servers=2")),
        (("parallel=my_servers", "+parallel.spare=1", "+parallel.lead=0", "batch_size_global=48", "+parallel.shards=1"),
         ("parallel=sync_backup", "batch_size_global=48")),
    ],
    ids=lambda value: " ".join(value),
)  # fmt: skip
def test_the_same_engine_under_other_names_has_the_same_plan(
    config_of: Any, own: tuple[str, ...], same: tuple[str, ...]
) -> None:
    one, other = (config_of(FOUR, *overrides).config for overrides in (own, same))
    plan, trust = make_plan(one), ["strange_engines"]
    assert plan == make_plan(other)
    assert make_layout(one, plan) == make_layout(other, plan)
    assert estimate(one, plan, trust) == estimate(other, plan)
    engines = read_engine(one), read_engine(other)
    assert find_mode(engines[0]) == find_mode(engines[1])
    assert read_choices(engines[0]) == read_choices(engines[1])
    assert is_supervised(one) == is_supervised(other)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("parallel=my_replicas", "parallel.num_replicas=3"), "num_replicas=3: hardware has 4 devices"),
        (("parallel=my_replicas", "parallel.num_replicas=0"), "parallel.num_replicas=0 is not more than 0"),
        (("parallel=my_shards", "parallel.num_replicas=2"), "set parallel.num_replicas=4, or parallel.num_replicas=auto"),
        (("parallel=my_shards", "+parallel.moves_to_host=weights_and_optimizer"),
         "parallel.moves_to_host=weights_and_optimizer needs ZeRO stage 3, but parallel.sharding=2"),
        (("parallel=my_stages", "+parallel.cuts=[0]"), "parallel.cuts=[0] has 1 stages, but parallel.num_stages=2"),
        (("parallel=my_servers", "+parallel.group=3"), "parallel.group=3 does not divide the 4 replicas (parallel.num_replicas)"),
        (("parallel=loner",), "hardware has 4 devices (nodes=1 x devices_per_node=4), but parallel._target_=strange_engines.L"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_messages_name_the_arguments_of_the_engine(config_of: Any, overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError) as error:
        make_plan(config_of(FOUR, *overrides).config)
    assert problem in "\n".join(error.value.problems)


def test_arguments_with_the_names_of_settings_mean_nothing_by_themselves(config_of: Any) -> None:
    config = config_of("parallel=loner").config
    plan = make_plan(config)
    assert (make_layout(config, plan).engine, plan.num_servers, is_supervised(config)) == ("single", 0, False)


def test_the_layout_search_compares_engines_of_the_user(config_of: Any) -> None:
    own = "+parallel.options={data: my_replicas, zero: my_shards, pipeline: my_stages}"
    experiment = config_of(FOUR, "parallel=my_auto", own, "model.hidden_sizes=[64, 64]")
    assert is_auto(experiment.config)
    found = {candidate.name: candidate for candidate in compare(experiment).ranked}
    builtin = compare(
        config_of(FOUR, "parallel=auto", "parallel.stages=[2]", "parallel.max_pipe=2", "parallel.max_model=1")
    )
    assert sorted(found) == [
        "my_replicas num_replicas=4", "my_shards sharding=2 moves_to_host=none num_replicas=4 num_slices=1",
        "my_stages num_stages=2 num_replicas=2", "single",
    ]  # fmt: skip
    assert {each.cost for each in found.values()} == {each.cost for each in builtin.ranked}
    with pytest.raises(InputError, match=r"parallel.options.data=my_replica is no option .*did you mean 'my_replicas'"):
        compare(config_of(FOUR, "parallel=my_auto", "+parallel.options={data: my_replica}"))
