"""`lathe options KEY`: every key has a type and a meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.config.options import groups
from experiments.config.reference import keys
from experiments.config.reference.keys import find_keys

GROUPS = groups()
ALL = list(keys._all_keys(GROUPS, None))
OWN = ("experiments.", "modules.", "launchers.")


def test_every_key_of_lathe_has_a_meaning() -> None:
    of_torch = {"differentiable", "foreach", "maximize", "capturable", "fused"}  # of the base of an optimizer
    own = [each for each in ALL if each.owner.startswith(OWN) and each.key.rpartition(".")[2] not in of_torch]
    assert len(own) > 300
    assert [each.key for each in own if not each.meaning] == []


@pytest.mark.parametrize(
    ("key", "type_", "meaning", "values"),
    [
        ("max_steps", "a whole number or null", "Length of the training", {"default": 300}),
        ("checkpoint", "", "When checkpoints are written", None),
        ("checkpoint.best_mode", "one of max, min", "What is better", {"default": "auto"}),
        ("hardware.slurm.partition", "text or null", "Name of the partition", {}),
        ("optimizer.lr", "a number", "learning rate", {"adamw": 0.001}),
        ("optimizer.amsgrad", "true or false", "whether to use the AMSGrad variant", {"default": "False"}),
        ("model.hidden_sizes", "a list of whole numbers", "", {"mlp": [64, 64]}),
        ("callback.ema.decay", "a number", "", {"ema": 0.999}),
    ],
)
def test_a_key_is_explained(key: str, type_: str, meaning: str, values: dict[str, object] | None) -> None:
    found = find_keys(key, GROUPS)
    assert any(
        each.type == type_ and meaning in each.meaning and values in (None, dict(each.values)) for each in found
    ), found


def test_a_class_of_a_user_is_explained_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("# Mine.\n_target_: own_reference.Net\nwidth: 3\n")
    (tmp_path / "own_reference.py").write_text(
        "raise RuntimeError('imported')\n"
        'class Net:\n    """A net.\n\n    Args:\n        width (int, optional): of each layer,\n            in units.\n'
        '        depth: of all.\n    """\n    def __init__(self, width: int, depth: int = 2): ...\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["options", "model.width", "--config-dir", str(tmp_path / "conf")]) == 0
    shown = capsys.readouterr().out
    for text in ("own_reference.Net", "a whole number", "3 (mine)", "of each layer, in units."):
        assert text in shown
    assert main(["options", "model.depht", "--config-dir", str(tmp_path / "conf")]) == 2
    assert "there is no key 'model.depht'; did you mean 'model.depth'" in capsys.readouterr().err
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("width: [")
    assert main(["options", "model.width", "--config-dir", str(tmp_path / "conf")]) == 2
    assert "mine.yaml:1 is not valid YAML" in capsys.readouterr().err
