from __future__ import annotations

import random
import subprocess
import sys
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config import signature
from experiments.config.options import groups, header
from experiments.core.errors import InputError
from experiments.sweep.create import prepare
from experiments.sweep.space import Choice
from experiments.sweep.spec import FILE, SCHEMA, SweepSpec, _find_base_problems, read, read_overrides
from experiments.sweep.spec_defaults import DEFAULTS
from experiments.sweep.strategies.make_strategy import ADAPTIVE
from experiments.sweep.sweep_files import list_sweep_files

TEXT = """# Question: which one?
base: [model=mlp, optimizer.lr=0.5, +tags.team=vision]
space:
  optimizer:
    sgd: {optimizer.momentum: "choice(0, 0.9)"}
    adamw: {optimizer.weight_decay: "tag(log, interval(1e-5, 1e-2))"}
  batch_size_global: [16, 64]
strategy: tpe
budget: {max_points: 20}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user folder with one sweep."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "which.yaml").write_text(TEXT)
    return tmp_path


def find_problems(folder: Path, *overrides: str, name: str = "which") -> list[str]:
    with pytest.raises(InputError) as err:
        read(name, overrides, [folder])
    return err.value.problems


def test_spec_has_every_key_of_the_schema_with_its_default(mine: Path) -> None:
    assert list(DEFAULTS) == list(signature.read(SCHEMA).arguments)
    for part in ("strategy", "budget"):
        assert list(DEFAULTS[part]) == list(signature.read(f"experiments.config.schema.{part.title()}Schema").arguments)
    spec = read("which", config_dirs=[mine])
    assert list(spec.values) == list(DEFAULTS)
    assert spec.name == "which"
    assert spec.values["strategy"] == {**DEFAULTS["strategy"], "name": "tpe"}
    assert spec.values["budget"] == {"max_points": 20, "wall_h": None, "device_h": None}
    assert spec.values["pruner"] is None
    assert spec.keys == ["optimizer", "optimizer.momentum", "optimizer.weight_decay", "batch_size_global"]


def test_a_file_is_found_by_its_path_too(mine: Path) -> None:
    assert read(str(mine / "sweeps" / "which.yaml")) == read("which", config_dirs=[mine])
    assert read("lr_batch").name == "lr_batch"


def test_spec_survives_a_round_trip_through_yaml(mine: Path, tmp_path: Path) -> None:
    spec = read("which", ["sweep.description='1e-3: yes, ü'", "optimizer.eps=1e-8,1e-7"], [mine])
    (tmp_path / FILE).write_text(spec.to_yaml())
    assert SweepSpec.load(tmp_path) == spec
    assert yaml.safe_load(spec.to_yaml()) == spec.values
    assert spec.values["space"]["optimizer"]["adamw"]["optimizer.weight_decay"] == {
        "low": 1e-5, "high": 1e-2, "log": True,
    }  # fmt: skip


def test_glob_is_frozen_as_the_current_options(tmp_path: Path) -> None:
    spec = read_overrides(["schedule=glob(*)"])
    assert spec.values["space"]["schedule"] == list(groups()["schedule"])


def test_overrides_go_to_the_spec_the_space_or_the_base(mine: Path) -> None:
    overrides = [
        "sweep.num_seeds=3",
        "optimizer.lr=0.1,0.2",
        "max_steps=7",
        "+tags.day=one",
        "~optimizer.eps",
        "sweep.description=hm",
    ]
    spec = read("which", overrides, [mine])
    assert (spec.values["num_seeds"], spec.values["description"]) == (3, "hm")
    assert spec.space["optimizer.lr"] == Choice((0.1, 0.2))
    assert spec.values["base"] == [
        "model=mlp",
        "+tags.team=vision",
        "max_steps=7",
        "+tags.day=one",
        "~optimizer.eps",
    ]


def test_strategy_and_pruner_can_be_given_by_name(mine: Path) -> None:
    spec = read("which", ["sweep.strategy=random", "sweep.pruner=asha", "sweep.pruner.first_step=9"], [mine])
    assert spec.values["strategy"]["name"] == "random"
    assert spec.values["pruner"] == {"factor": 3, "name": "asha", "first_step": 9}
    again = read("which", ["sweep.strategy.name=random", "sweep.pruner={name: asha, first_step: 9}"], [mine])
    assert again == spec
    assert read("which", ["sweep.pruner=null"], [mine]).values["pruner"] is None


def test_fixed_value_removes_a_key_from_the_space(mine: Path) -> None:
    spec = read("which", ["optimizer=sgd", "batch_size_global=8"], [mine])
    assert spec.space == {"optimizer.momentum": Choice((0, 0.9))}
    assert spec.values["base"][-2:] == ["optimizer=sgd", "batch_size_global=8"]
    assert "optimizer" not in read("which", ["~optimizer"], [mine]).space


def test_options_in_an_override_replace_the_choice_and_keep_their_keys(mine: Path) -> None:
    part = read("which", ["optimizer=sgd,adam"], [mine]).space["optimizer"]
    assert part == Choice(("sgd", "adam"), {"sgd": {"optimizer.momentum": Choice((0, 0.9))}})


def test_overrides_alone_make_a_grid_named_after_the_varied_keys() -> None:
    spec = read_overrides(["model=mlp,softmax", "optimizer.lr=0.1,1e-3", "max_steps=3"])
    assert (spec.name, spec.values["strategy"]["name"]) == ("model-lr", "grid")
    assert list(spec.preview_points())[-1] == {"model": "softmax", "optimizer.lr": 0.001}
    assert spec.count_points() == 4
    assert spec.choices(groups()) == [{"model": "mlp"}, {"model": "softmax"}]
    one = read_overrides(["launcher=slurm"])
    assert (one.name, list(one.preview_points()), one.count_points()) == ("sweep", [{}], 1)
    assert read_overrides(["seed=1,2", "sweep.name=mine"]).name == "mine"
    assert read_overrides(["seed=1,2"], name="other").name == "other"


def test_listed_points_are_sets_of_overrides() -> None:
    sets = "sweep.points=[['optimizer=sgd','optimizer.lr=0.1'],['optimizer.lr=1e-3','description=\"a,b\"']]"
    with pytest.raises(InputError, match="description varies, but does not change what a trial computes"):
        read_overrides([sets])
    spec = read_overrides([sets.replace(",'description=\"a,b\"'", "")])
    assert spec.values["strategy"]["name"] == "list"
    assert list(spec.preview_points()) == [{"optimizer": "sgd", "optimizer.lr": 0.1}, {"optimizer.lr": 0.001}]
    assert spec.choices(groups()) == [{"optimizer": "sgd"}, {}]
    assert spec.keys == ["optimizer", "optimizer.lr"]
    assert spec.count_points() == 2


def test_random_points_depend_on_the_seed_and_extend_the_same_sequence() -> None:
    space = ["optimizer.lr=tag(log,interval(1e-4,1))", "batch_size_global=range(8,72,8)", "sweep.strategy=random"]

    def drawn(count: int, seed: int = 0) -> list[dict[str, Any]]:
        spec = read_overrides([*space, f"sweep.budget.max_points={count}", f"sweep.strategy.seed={seed}"])
        return list(spec.preview_points())

    few, more = drawn(4), drawn(9)
    assert more[:4] == few == drawn(4)
    assert len({repr(point) for point in more}) == 9
    assert drawn(4, seed=1) != few
    assert all(1e-4 <= point["optimizer.lr"] <= 1 and point["batch_size_global"] % 8 == 0 for point in more)
    assert {type(point["batch_size_global"]) for point in more} == {int}


def test_random_points_of_a_small_space_are_all_its_points() -> None:
    spec = read_overrides(["seed=1,2,3", "sweep.strategy=random", "sweep.budget.max_points=50"])
    assert sorted(point["seed"] for point in spec.preview_points()) == [1, 2, 3]


def test_max_points_shortens_a_grid() -> None:
    spec = read_overrides(["seed=range(0,100)", "sweep.budget.max_points=7"])
    assert [point["seed"] for point in spec.preview_points()] == list(range(7))
    assert spec.count_points() == 7


def test_extension_adds_values_points_and_seeds() -> None:
    spec = read_overrides(["optimizer=sgd,adam", "batch_size_global=range(16,64,16)", "max_steps=3"])
    more = [
        "optimizer=adamw,sgd",
        "batch_size_global=128",
        "optimizer.lr=1,2",
        "sweep.num_seeds=2",
        "sweep.budget.wall_h=1",
    ]
    extended = spec.extend(more)
    assert extended.space["optimizer"] == Choice(("sgd", "adam", "adamw"))
    assert extended.space["batch_size_global"] == Choice((16, 32, 48, 128))
    assert extended.space["optimizer.lr"] == Choice((1, 2))
    assert (extended.values["num_seeds"], extended.values["budget"]["wall_h"]) == (2, 1.0)
    assert extended.values["base"] == spec.values["base"]
    assert spec.values["num_seeds"] == 1
    assert spec.extend([]) is spec


def test_extension_cannot_change_a_started_sweep() -> None:
    spec = read_overrides(["optimizer.lr=tag(log,interval(1e-4,1))", "sweep.strategy=gp", "sweep.budget.max_points=5"])
    changes = [
        "max_steps=3",
        "sweep.metric=val/loss_nats",
        "sweep.base=[]",
        "~optimizer.eps",
        "optimizer.lr=interval(0,1)",
    ]
    with pytest.raises(InputError) as err:
        spec.extend(changes)
    assert len(err.value.problems) == len(changes)
    assert all("another sweep" in problem for problem in err.value.problems)
    assert spec.extend(["sweep.budget.max_points=9"]).count_points() == 9


def test_all_problems_of_a_spec_are_reported_together(mine: Path) -> None:
    messages = find_problems(
        mine, "sweep.strategy=tpee", "sweep.num_seedz=2", "sweep.pruner=asha", "sweep.metric=test/x", "sweep.mode=up",
        "launcher=local,slurm", "model=mlp,mpl", "sweep.budget.max_pints=3", "sweep.num_seeds=1,2", "optimizer.eps=range(2,1)",
        "sweep.space.seed=3", "sweep.max_attempts=0",
    )  # fmt: skip
    assert len(messages) == 12
    assert "sweep.strategy.name=tpee is not one of grid, random, tpe, cmaes, gp, list; did you mean 'tpe'?" in messages
    assert "sweep.num_seedz=2: sweep has no key 'num_seedz'; did you mean 'num_seeds'?" in messages


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.strategy=grid"], "optimizer.weight_decay=tag(log, interval(1e-05, 0.01)) is continuous"),
        (["sweep.budget.max_points=null"], "sweep.strategy.name=tpe has no end; set a budget"),
        (["sweep.strategy=cmaes"], "sweep.strategy.name=cmaes needs keys that all points have"),
        (["sweep.strategy=cmaes", "optimizer=sgd", "~optimizer.momentum"], "not a choice (batch_size_global)"),
        (["sweep.strategy=list"], "sweep.strategy.name=list has no points"),
        (["sweep.points=[['seed=1']]"], "`points` lists overrides, but sweep.strategy.name=tpe does not use them"),
        (["sweep.pruner={name: asha, first_step: 0, factor: 1}"], "sweep.pruner.factor=1 prunes no trial"),
        (["seed=1,2", "sweep.num_seeds=2"], "seed is in the space, and sweep.num_seeds=2 varies it too"),
        (["sweep.name=a/b"], "sweep.name=a/b is not a valid folder name"),
        (["sweep.name=single"], "sweep.name=single is the folder of runs that belong to no sweep"),
        (["hardware.nodes=1,2"], "hardware.nodes varies, but all trials of a sweep share it"),
        (["sweep.base=['seed=1,2']"], "seed=1,2 has several values; move them to the space"),
        (["sweep.base=['batch_size_global=3']"], "batch_size_global is in base (batch_size_global=3) and in the space"),
        (["sweep.base=['sweep.num_seeds=3']"], "sweep.num_seeds=3 is a key of the spec, not of the configuration"),
        (["sweep.base=['seed=[']"], "seed=[ does not parse"),
        (["sweep.strategy.storage=here"], "sweep.strategy.storage no longer exists, because the ledger holds the study"),
        (["sweep.strategy.seed=-1"], "sweep.strategy.seed=-1 is not between 0 and 4294967295"),
        (["~optimizer", "~batch_size_global"], "the space is empty; vary a key"),
        (["seed=range(0,60000)", "~optimizer", "sweep.strategy=grid", "sweep.budget=null"], "asks for 120,000 trials at once"),
        (["sweep.budget=many"], "sweep.budget=many is not a map; its keys are max_points, wall_h, device_h"),
        (["~sweep.name"], "~sweep.name removes a required key"),
        (["seed=intervall(1,2)"], "there is no 'intervall' in the sweep grammar; did you mean 'interval'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_broken_rule_is_reported_with_a_fix(mine: Path, overrides: list[str], message: str) -> None:
    messages = find_problems(mine, *overrides)
    assert any(message in problem for problem in messages), messages


def test_problem_in_a_file_names_its_line(mine: Path) -> None:
    path = mine / "sweeps" / "which.yaml"
    path.write_text(TEXT + "num_seeds: two\nmode: 010\n" + "metrics: val/x\n")
    messages = find_problems(mine)
    assert any(problem.startswith(f"sweep.num_seeds=two ({path}:10) is not a whole number") for problem in messages)
    assert any(f"sweep.mode=010 ({path}:11) is an octal number in YAML" in problem for problem in messages)
    assert any(
        f"sweep.metrics=val/x ({path}:12): sweep has no key 'metrics'; did you mean 'metric'?" in p for p in messages
    )
    path.write_text(TEXT.replace('"choice(0, 0.9)"', '"choice(0, 0.9"').replace("[16, 64]", "[16, 16]"))
    messages = find_problems(mine)
    assert messages[0].startswith(f"optimizer.momentum=choice(0, 0.9 ({path}:5) is cut at a comma")
    assert messages[1] == f"batch_size_global=[16, 16] ({path}:7) has 16 twice; remove one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- a\n", "is a list, not a map"),
        ("num_seeds: 1\nnum_seeds: 2\n", "is not valid YAML: found duplicate key num_seeds"),
        ("space: [1, 2]\nstrategy: grid\nseeds: 2\n", "is not a map"),
    ],
)
def test_file_that_is_not_a_spec_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as err:
        read(str(path))
    assert any(message in problem for problem in err.value.problems)


def test_unknown_sweep_name_is_an_error(mine: Path) -> None:
    assert find_problems(mine, name="wich") == ["there is no sweep 'wich'; did you mean 'which'?"]
    (mine / "sweeps" / "lr_batch.yaml").write_text(TEXT)
    assert "is hidden by" in find_problems(mine, name="lr_batch")[0]
    assert "there is no file" in find_problems(mine, name="no/such.yaml")[0]


def test_secrets_are_refused_and_masked(mine: Path) -> None:
    address = "postgresql://" + "me:hunter2@host/db"
    messages = find_problems(
        mine, f"sweep.strategy.storage={address}", f"sweep.description={address}", "+tags.password=hunter2,hunter3"
    )
    assert any("looks like a secret" in problem for problem in messages)
    assert "hunter" not in "\n".join(messages)


def test_listing_sweeps_does_not_import_torch_optuna_or_hydra() -> None:
    source = "import sys; from experiments.sweep.sweep_files import list_sweep_files; assert 'lr_batch' in list_sweep_files()"
    source += "; print([name for name in ('torch', 'optuna', 'hydra', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    source = "import sys; from experiments.sweep.spec import read; read('lr_batch', ['seed=1,2', 'sweep.num_seeds=1'])"
    source += "; print([name for name in ('torch', 'optuna', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", list_sweep_files())
def test_header_of_a_sweep_has_question_expectation_cost_and_command(name: str) -> None:
    lines = header(list_sweep_files()[name])
    facts = {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}
    assert facts["Question"].endswith("?")
    assert facts["Expect"]
    assert facts["Run"].startswith(f"lathe sweep {name}")
    spec = read(name)
    count = spec.count_points()
    assert count is not None
    assert facts["Cost"].startswith(f"{count * spec.values['num_seeds']} trials, ")


@pytest.mark.parametrize("name", list_sweep_files())
def test_every_point_of_a_built_in_sweep_has_a_valid_plan(name: str) -> None:
    spec = read(name)
    try:
        draft = prepare(spec)
    except InputError as err:
        problems = err.problems
        if all("`lathe data` names their source" in problem for problem in problems):
            pytest.skip(f"files are missing: {problems[0].partition(';')[0]}")
        raise
    points = list(spec.preview_points())
    for values in points:
        config, _ = draft.templates.fill(values, 0)
        assert config["eval_every_steps"] <= config["max_steps"]
        if spec.values["pruner"]:
            assert config["eval_every_steps"] <= spec.values["pruner"]["first_step"] < config["max_steps"]
    if spec.values["strategy"]["name"] not in ADAPTIVE:
        assert len(draft.trials) == len(points) * spec.values["num_seeds"]


JUNK: list[Any] = [
    3, -1, 1.5, "x", "", True, None, [], [1], [[1]], [None], {}, {"a": 1}, {"low": 1}, {"x": {"y": [1]}}, {3: 4}, {True: None},
    "tpe", "asha", {"name": "tpe"}, {"name": ["a"]}, {"max_points": "x"}, ["a=1"], ["a=1,2"], [["a=1"]], [["~a"]],
    "interval(1,2)", "glob(*)", "range(1", float("nan"),
]  # fmt: skip


def test_random_files_are_read_or_refused_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same few bases come again and again, and each composition takes 0.15 s.
    find = cache(lambda dirs, trust, base: _find_base_problems(dirs, trust, [*base]))
    monkeypatch.setattr(
        "experiments.sweep.spec._find_base_problems", lambda dirs, trust, base: find((*dirs,), trust, (*base,))
    )
    generator = random.Random(0)
    path, read_whole = tmp_path / "junk.yaml", 0
    for _ in range(400):
        node: dict[str, Any] = {"space": {"seed": [1, 2]}}
        for key in generator.sample([*DEFAULTS], generator.choice([1, 1, 2])):
            node[key] = (
                {"optimizer": generator.choice(JUNK), "a.b": generator.choice(JUNK)}
                if key == "space"
                else generator.choice(JUNK)
            )
        path.write_text(yaml.safe_dump(node))
        try:
            spec = read(str(path))
        except InputError:
            continue
        read_whole += 1
        list(islice(spec.preview_points(), 2))
        (tmp_path / FILE).write_text(spec.to_yaml())
        assert repr(SweepSpec.load(tmp_path)) == repr(spec)
    assert read_whole > 5
