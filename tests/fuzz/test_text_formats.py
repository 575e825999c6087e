"""Overrides, conditions of `lathe ls`, YAML and JSON: any text is read or refused by an error of the project's own."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.config.compose import compose
from experiments.config.overrides import parse_override, read_override
from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.core.files.read_file import DamagedFileError, parse_json, parse_yaml, read_yaml_map
from experiments.results.search.condition import parse
from tests.support.mutations import TOKENS, damaged
from tests.support.shares import text as shared_text

WORDS = [
    "optimizer.lr", "model", "model._target_", "tags", "data.root", "freeze", "=", "==", "+", "++", "~", "@", ".",
    ",", ":", "[", "]", "{", "}", "(", ")", "'", '"', "\\", "${", "${oc.env:NOPE}", "${nope}", "}", "1", "-1",
    "1e400", "nan", "inf", "null", "true", "9" * 400, "9" * 5000, "range(1,9)", "choice(a,b)", "sort(", "glob(*)",
    "int(", "extend_list(", "modules.model.mlp.Mlp", " ", "\n", "\0", "é", "\udcff", "x" * 300, "[" * 60,
]  # fmt: skip
OVERRIDES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map("".join)
CONDITIONS = st.lists(
    st.sampled_from(["lr", "<", "=", "(", ")", "and", "or", "not", "'", '"', "1e-3", "val/x",
         "~", "!=", " ", "\n", "é", "\0", "(" * 500]),
    min_size=1, max_size=12,
).map("".join)  # fmt: skip
DOCUMENTS = [
    shared_text().encode(),
    b"a: &a [1, 2.5, null]\nb: {c: *a, d: 'x'}\n",
    b'{"a": [1, {"b": null}], "c": "x"}',
]


@given(OVERRIDES)
@settings(max_examples=settings().max_examples * 5)
def test_overrides_are_parsed_or_refused(override: str) -> None:
    for read in (parse_override, read_override):
        with contextlib.suppress(InputError):
            read(override)


@given(st.lists(OVERRIDES, min_size=1, max_size=6))
@settings(max_examples=max(12, settings().max_examples // 5))
def test_experiments_are_composed_or_refused(overrides: list[str]) -> None:
    with contextlib.suppress(InputError):
        compose(overrides)


@given(CONDITIONS)
@settings(max_examples=settings().max_examples * 10)
@example("(" * 3000)
@example("not " * 3000)
def test_conditions_are_parsed_or_refused(condition: str) -> None:
    with contextlib.suppress(InputError):
        parse(condition).holds({"lr": 0.003, "val/x": "1"}.get)


@given(content=damaged(DOCUMENTS))
@settings(max_examples=settings().max_examples * 3)
def test_documents_are_plain_values_or_refused(content: bytes) -> None:
    text = content.decode(errors="replace")
    for read in (parse_yaml, parse_json):
        with contextlib.suppress(ValueError):
            read(text)


@given(content=damaged(DOCUMENTS))
def test_files_are_maps_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "it.yaml"
    path.write_bytes(content)
    with contextlib.suppress(DamagedFileError):
        assert isinstance(read_yaml_map(path), dict)


@given(
    st.text()
    | st.lists(st.sampled_from([*map(bytes.decode, TOKENS[:2]), "~", "~a", "/", "..", "a" * 300]), max_size=40).map(
        "".join
    )
)
@settings(max_examples=settings().max_examples * 5)
def test_paths_are_expanded_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(user_path(text), Path)
