"""Files of a configuration folder that would be costly to read, or that are no configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.config.compose import compose
from experiments.config.source_map import SourceMap
from experiments.core.errors import InputError
from experiments.sweep.spec import read
from tests.support.hostile_files import write_experiment

TEN = "[x, x, x, x, x, x, x, x, x, x]"
BOMB = f"tags:\n  a0: &a0 {TEN}\n" + "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
FILES = {
    "alias_bomb": (BOMB, "holds more than 100,000 values, with aliases expanded, at line"),
    "alias_bomb_of_maps": (
        "tags:\n  a0: &a0 {x: 1}\n" + "".join(f"  a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 40)),
        "with aliases expanded",
    ),
    "merge_bomb": ("tags: &a {x: &b {y: *a}}", "an anchor that contains itself"),
    "deep_list": ("tags: " + "[" * 100_000, "nested more than 50 levels deep in line"),
    "deep_map": ("tags: " + "{a: " * 60 + "1" + "}" * 60, "nested more than 50 levels deep in line"),
    "deep_block": ("".join(f"{' ' * n}a:\n" for n in range(60)), "nested more than 50 levels deep in line"),
    "large": ("description: " + "x" * 10_100_000, "has more than 10 MB"),
    "number": ("5", "is a single value, not a map"),
    "text": ("hello", "is a single value, not a map"),
    "list": ("- 1", "is a list, not a map"),
    "python": ("description: !!python/object/apply:os.system [id]", ":2 is not valid YAML: could not determine a constructor"),
    "bool": ("compile: !!bool abc", "cannot be read: a value does not fit its type"),
    "int": ("seed: !!int abc", "cannot be read: invalid literal"),
    "time": ("name: !!timestamp abc", "cannot be read: a value does not fit its type"),
    "digits": ("seed: " + "9" * 5000, "cannot be read: Exceeds the limit"),
    "null_byte": ("name: \0", "is not valid YAML: unacceptable character"),
    "unhashable": ("{a: 1}: 5", ":2 is not valid YAML: found unhashable key"),
    "defaults": ("defaults: 5", "defaults must be a list"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_an_odd_or_costly_file_is_reported(text: str, message: str, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, text)
    write_experiment(tmp_path, "compile: !!bool abc", "unused")  # what is not chosen is not read
    with pytest.raises(InputError) as caught:
        compose(["experiment=foreign"], config_dirs=[tmp_path])
    assert message in str(caught.value)
    assert str(path) in str(caught.value) or "defaults" in text
    if "defaults" not in text:
        with pytest.raises(InputError, match="the sweep 'foreign'"):
            read(str(path))


def test_a_pipe_is_no_option(tmp_path: Path) -> None:
    write_experiment(tmp_path, "seed: 3")
    os.mkfifo(tmp_path / "experiment" / "pipe.yaml")
    assert compose(["experiment=foreign"], config_dirs=[tmp_path]).config["seed"] == 3
    with pytest.raises(InputError, match="is not an option"):
        compose(["experiment=pipe"], config_dirs=[tmp_path])


def test_the_cost_of_a_location_does_not_depend_on_the_number_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key visits itself and what is below it; before, it visited all others."""
    origins, visited = SourceMap(), list[str]()
    original = SourceMap.forget

    def forget(self: SourceMap, key: str, below: str = ".[") -> None:
        visited.append(key)
        original(self, key, below)

    monkeypatch.setattr(SourceMap, "forget", forget)
    for number in range(500):
        origins.add_override(f"tags.k{number}", 1, "1")
    assert len(visited) == 500
    visited.clear()
    origins.add_override("tags", {"k1": {"a": 1}}, "")
    origins.add_removal("tags.k2", "~tags.k2")
    assert len(visited) < 10
    assert list(origins.keys_at("tags.k1")) == ["tags.k1", "tags.k1.a"]
