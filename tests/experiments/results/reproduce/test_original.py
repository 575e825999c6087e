"""A shared file whose configuration does not fit is refused with every problem, never with a traceback."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.source_map import SourceMap
from experiments.core.errors import InputError
from experiments.results.reproduce import original
from experiments.results.reproduce.environment import find_data_changes, reproducing_variables
from experiments.results.share.shared_file import SharedFile
from tests.support.shares import put, text, values
from tests.support.variants import IS_LONG

MISSING = object()
WRONG: tuple[object, ...] = (
    MISSING, None, "x", 3, -1, 2.5, True, [], [1], {}, {"a": 1}, "", [[["x"]]], {"_target_": "os.system"},
    [{"_target_": "os.system"}], {"_target_": 3},
)  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hardware", MISSING), ("hardware", "x"), ("hardware.nodes", "x"), ("data", [1]), ("checkpoint", "x"),
        ("parallel", "x"), ("init_from", "x"), ("model._target_", 3),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_has_no_traceback(
    key: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "it.yaml"
    file.write_text(text({**values(), "configuration": _change(values()["configuration"], key.split("."), value)}))
    for command in ("reproduce", "plan"):
        assert main([command, *(["--from"] if command == "plan" else []), str(file)]) == 2
        assert key.partition(".")[0] in capsys.readouterr().err
    assert main(["diff", str(file), str(file)]) in (0, 2)


def test_every_key_may_be_missing_or_of_another_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key with one of the wrong values, for the code of today or an older one; with LATHE_LONG=1 with all of them."""
    content, number = values(), 0
    monkeypatch.setattr(original, "_has_other_code", lambda record, trust: number % 2 == 0)
    args = Namespace(run="it.yaml", trust=[], trust_code=False, steps=None)
    num_accepted = 0
    for number, keys in enumerate(_paths(content["configuration"])):
        for value in WRONG if IS_LONG else (WRONG[7 * number % len(WRONG)],):
            config = _change(content["configuration"], keys, value)
            shared = SharedFile(Path("it.yaml"), {**content, "configuration": config}, config, SourceMap(), {})
            monkeypatch.setattr("experiments.results.share.shared_file.read", lambda path, shared=shared: shared)
            with suppress(InputError):
                found = original._of_shared(Path("it.yaml"), Path("scratch"), args)
                reproducing_variables(found.record, 1)
                find_data_changes(found.record.config, found.record.data)
                num_accepted += 1
    assert num_accepted < number


def test_code_that_differs_may_have_other_arguments_but_no_other_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older component may lack arguments of today's and have others, which are plain values."""
    monkeypatch.setattr(original, "_has_other_code", lambda record, trust: True)

    def check(model: dict[str, Any], *, trust: Sequence[str] = (), trust_code: bool = False) -> None:
        content = put(values(), "configuration.model", model)
        config = content["configuration"]
        shared = SharedFile(Path("it.yaml"), content, config, SourceMap(), {})
        monkeypatch.setattr("experiments.results.share.shared_file.read", lambda path: shared)
        original._of_shared(Path("it.yaml"), Path(), Namespace(run="it.yaml", trust=trust, trust_code=trust_code))

    check({"_target_": "modules.model.mlp.Mlp", "units": [8]})
    with pytest.raises(InputError, match=r"model\.units=.* has no argument 'units'"):
        check({"_target_": "modules.model.mlp.Mlp", "units": {"_target_": "modules.model.softmax.Softmax"}})
    gone = {"_target_": "modules.model.gone.Gone", "inner": 3}
    with pytest.raises(InputError, match="has no module 'gone'"):
        check(gone)
    check(gone, trust_code=True)
    check({"_target_": "mylab.gone.Gone"}, trust=["mylab"], trust_code=True)
    with pytest.raises(InputError, match="add `--trust mylab`"):
        check({"_target_": "mylab.gone.Gone"}, trust_code=True)
    for target in ("modules.parallel.parameter_service.Count", "launchers.ranks.Ranks", "modules.model.gpt.Block"):
        with pytest.raises(InputError, match=r"model\._target_"):
            check({"_target_": target}, trust_code=True)
    with pytest.raises(InputError, match=r"model\.model\._target_"):
        check({"_target_": "modules.model.logits_of.LogitsOf", "model": gone | {"_target_": "launchers.ranks.Ranks"}})


def _paths(node: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*keys, key)
        yield from _paths(inner, (*keys, key))


def _change(config: dict[str, Any], keys: Any, value: object) -> dict[str, Any]:
    changed: Any = copy.deepcopy(config)
    node = changed
    for key in keys[:-1]:
        node = node[key]
    if value is MISSING:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    return dict(changed)
