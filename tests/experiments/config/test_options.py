"""Composes and builds every YAML option in `conf/`, so that a new option is tested without a new test."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, product
from typing import Any

import pytest
import torch
import yaml

from experiments.components.assemble import assemble
from experiments.components.instantiate import instantiate
from experiments.config.compose import compose
from experiments.config.composition.root import OF_SWEEPS
from experiments.config.options import CONF_DIR, groups, header
from experiments.core.errors import InputError, PlanError
from experiments.plan.estimate import ResourceEstimate, estimate
from experiments.plan.plan import make_plan
from experiments.train.loading.split_signature import is_split
from modules.data.base import DataError, StreamShard
from tests.support.own_data import write_all

GROUPS = groups()
FITTED: Counter[str] = Counter()
"""How many options have fitted an experiment."""
STEPS: dict[str, ResourceEstimate | None] = {}
"""What a step of a configuration needs on paper: an option with the experiment that chooses it is that experiment."""
OWN: dict[str, list[str]] = {}
"""The overrides for data sets of a user."""
OF_EXTRAS = [("model", "huggingface"), ("model", "huggingface_lm"), ("adapter", "lora"), ("data", "labelled_texts")]
"""They need a folder of a library that is an extra; tests/modules/model/pretrained makes one."""
OPTIONS = [
    (group, option) for group, known in GROUPS.items() if "/" not in group for option in known
    if (group, option) not in OF_EXTRAS
]  # fmt: skip


def read_field(group: str, option: str, field: str) -> str:
    """The text after ``field:`` in the header of an option; "" if it is missing."""
    lines = (line.split(":", 1) for line in header(GROUPS[group][option]) if line.startswith(f"{field}:"))
    return next((text.strip() for _, text in lines), "")


@cache
def read_target(group: str, option: str) -> object:
    """The class of an option; None if it has none, as an experiment."""
    return yaml.safe_load(GROUPS[group][option].read_text()).get("_target_")


def companions(group: str, option: str) -> Iterator[list[str]]:
    """Overrides with which an option may fit, the likely ones first, because each that does not fit takes 0.3 s.

    An experiment that chooses it, none, an experiment that chooses another option with its class or has fitted others,
    another model and data.
    """
    if group == "data" and option in OWN:
        yield OWN[option]
        return
    if group == "experiment":
        yield []
        return
    texts = {name: path.read_text() for name, path in GROUPS["experiment"].items()}
    alike = [name for name in GROUPS[group] if read_target(group, name) == read_target(group, option)]
    chosen, related = (
        {name for name, text in texts.items() if re.search(rf"/{group}: ({options})\b", text)}
        for options in (option, "|".join(alike))
    )
    rest = sorted(texts.keys() - chosen, key=lambda name: (name not in related, -FITTED[name], name))
    others: Iterator[list[str]] = chain(
        ([f"experiment={name}"] for name in sorted(chosen)),
        [[]],
        ([f"experiment={name}"] for name in rest),
        (
            [f"data={data}", *(word for word in words if not word.startswith(f"{group}="))]
            for data, words in OWN.items()
        ),
        ([f"data={data}"] for data in GROUPS["data"]),
        ([f"model={model}"] for model in GROUPS["model"]),
        ([f"data={data}", f"model={model}"] for data, model in product(GROUPS["data"], GROUPS["model"])),
    )
    yield from (
        overrides
        for overrides in others
        if not any(override_text.startswith(f"{group}=") for override_text in overrides)
    )


@dataclass(frozen=True)
class Built:
    """An option together with overrides that it composes with."""

    config: dict[str, Any]
    step: ResourceEstimate | None
    """What a step needs on paper; None where files are missing, and for groups that do not change it."""


@cache
def built(group: str, option: str) -> Built:
    """With the first companions with which an option composes, builds and, on paper, trains; built once for all tests."""
    message: list[str] = []
    for words in companions(group, option):
        try:
            config = compose([*words, f"{group}={option}"]).config
            with torch.device("meta"):
                assemble(config)
            instantiate(config["launcher"], "launcher")
            step = None
            if group in ("model", "data", "experiment"):
                key = json.dumps(config, sort_keys=True)
                step = STEPS[key] = STEPS[key] if key in STEPS else take_a_step(config)
            FITTED.update(text.removeprefix("experiment=") for text in words)
            return Built(config, step)
        except InputError as err:
            message.append(str(err))
    pytest.fail(f"{group}={option} fits nothing; first: {message[0]}")


def take_a_step(config: dict[str, Any]) -> ResourceEstimate | None:
    """What a step needs on paper; None where files are missing.

    Raises:
        PlanError: the parts do not fit each other.
    """
    if not is_complete_data(config["data"]):  # any folder will do: on paper nothing of it is read
        config = {**config, "data": {**config["data"], "root": str(CONF_DIR), "folder": "data"}}
    try:
        plan = make_plan(config)
    except PlanError as err:
        if all("`lathe data` names their source" in problem for problem in err.problems):
            return None
        raise
    return estimate(config, plan)


@pytest.fixture(scope="module", autouse=True)
def _own_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    OWN.update(write_all(tmp_path_factory.mktemp("own")))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in CONF_DIR.rglob("*.yaml"):
        for name in re.findall(r"\$\{oc\.env:(\w+)\}", path.read_text()):
            monkeypatch.setenv(name, "http://127.0.0.1:5000")


@pytest.mark.parametrize(
    ("group", "option"), [pair for pair in OPTIONS if pair[0] not in OF_SWEEPS], ids=lambda name: str(name)
)
def test_an_option_composes_and_builds(group: str, option: str) -> None:
    assert built(group, option)


@pytest.mark.parametrize(
    ("group", "option"),
    [pair for pair in OPTIONS if pair[0] in ("model", "data", "experiment")],
    ids=lambda name: str(name),
)
def test_an_option_takes_a_step_on_the_meta_device(group: str, option: str) -> None:
    counted = built(group, option).step
    if counted is None:
        pytest.skip(f"files of {group}={option} are missing")
    assert counted.num_parameters > 0
    assert counted.flops_per_step > 0 or built(group, option).config["max_steps"] == 0


def is_complete(option: str) -> bool:
    """False for a data set that needs the user's files."""
    return is_complete_data(yaml.safe_load(GROUPS["data"][option].read_text()))


def is_complete_data(data: dict[str, Any]) -> bool:
    return "folder" not in data or "files" in data


@pytest.mark.parametrize(
    "option", [option for option in GROUPS["data"] if is_complete(option) and ("data", option) not in OF_EXTRAS]
)
def test_a_data_set_has_the_shapes_of_its_example(option: str) -> None:
    data = instantiate(built("data", option).config["data"], "data")
    inputs, targets = data.example(3)
    try:
        split = data.load("train")
    except DataError as err:
        pytest.skip(f"files are missing: {err}")
    asked = (torch.arange(3), torch.arange(3)) if is_split(split) else (0, StreamShard(0, 1, 3), 0)
    batch_inputs, batch_targets = split.batch(*asked)
    for promised, given in ((inputs, batch_inputs), (targets, batch_targets)):
        pairs = zip(promised, given, strict=True) if isinstance(promised, tuple) else [(promised, given)]
        for one, two in pairs:
            assert one.dtype == two.dtype
            assert len(one) == len(two)
            # Sequences end with the longest of their batch; an example is as large as they come.
            assert all(most >= size for most, size in zip(one.shape, two.shape, strict=True))


@pytest.mark.parametrize("option", GROUPS["data"])
def test_the_header_of_a_data_set_has_splits_size_licence_and_source(option: str) -> None:
    missing = [name for name in ("Splits", "Size", "Licence", "Source") if not read_field("data", option, name)]
    assert missing == []


@pytest.mark.parametrize("option", GROUPS["experiment"])
def test_the_header_of_an_experiment_has_question_expectation_and_command(option: str) -> None:
    assert read_field("experiment", option, "Question").endswith("?")
    assert read_field("experiment", option, "Expect")
    assert read_field("experiment", option, "Run").startswith(f"lathe run experiment={option}")
    assert GROUPS["experiment"][option].read_text().startswith("# @package _global_\n")
    assert built("experiment", option).config["name"] == option


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda name: str(name))
def test_an_option_has_a_header_and_overrides_its_defaults(group: str, option: str) -> None:
    path = GROUPS[group][option]
    assert header(path), f"{path} begins without a comment that says what it is"
    content = yaml.safe_load(path.read_text())
    assert content.get("defaults", ["_self_"])[-1] == "_self_", f"{path}: its defaults list ends with _self_"
    assert re.fullmatch(r"[a-z0-9_]+", option), f"{path}: small letters, digits and underscores"


def test_the_root_chooses_every_group_once_and_the_experiment_last() -> None:
    defaults = yaml.safe_load((CONF_DIR / "config.yaml").read_text())["defaults"]
    assert defaults[0] == "_self_"
    chosen = [group for entry in defaults[1:] for group in entry]
    assert sorted(chosen) == sorted(group for group in GROUPS if "/" not in group and group not in OF_SWEEPS)
    assert defaults[-1] == {"experiment": None}
    assert {"callback": []} in defaults
    assert {"gradient": []} in defaults


def test_every_option_belongs_to_a_group_whose_folder_has_yaml_and_no_python() -> None:
    assert [path for path in CONF_DIR.rglob("*.py") if path != CONF_DIR / "__init__.py"] == []
    assert (CONF_DIR / "__init__.py").read_text() == ""
    assert [
        path for path in CONF_DIR.rglob("*") if path.is_file() and path.suffix not in (".yaml", ".py", ".pyc")
    ] == []
