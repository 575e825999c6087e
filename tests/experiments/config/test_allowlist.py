from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config.allowlist import is_allowed, is_own, settings_file, trusted
from experiments.core.errors import InputError


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = settings_file()
    path.parent.mkdir()
    return path


@pytest.mark.parametrize("target", ["modules.model.mlp.Mlp", "launchers.local.Local", "torch.optim.adamw.AdamW"])
def test_own_packages_and_the_short_list_of_torch_are_allowed(target: str) -> None:
    assert is_allowed(target)
    assert is_own(target)


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "subprocess.Popen", "torch.load", "torch.hub.load", "torch.optim.AdamW", "builtins.eval", "modules",
        "modulesx.A", "experiments.components.instantiate.instantiate", "", ".modules.A", "torch.optim.sgdx.A",
        "hydra.utils.instantiate",
    ],
)  # fmt: skip
def test_no_other_code_is_allowed(target: str) -> None:
    assert not is_allowed(target)
    assert not is_allowed(target, ["mypackage"])


def test_a_trusted_package_is_allowed_but_not_one_with_the_same_prefix() -> None:
    assert is_allowed("mypackage.net.Net", ["mypackage"])
    assert not is_allowed("mypackages.net.Net", ["mypackage"])
    assert not is_own("mypackage.net.Net")
    assert not is_allowed("os.system", [""])


def test_trust_comes_from_the_flag_and_from_the_settings(settings: Path) -> None:
    assert trusted(["a"]) == ("a",)
    settings.write_text("trust: [b, a]\n")
    assert trusted(["a"]) == ("a", "b")
    settings.write_text("")
    assert trusted() == ()
    settings.write_text("other: 3\n")
    assert trusted() == ()


@pytest.mark.parametrize("text", ["trust: b\n", "trust: [3]\n", "trust:\n", "- b\n- 3\n", "word\n", "trust: [b\n"])
def test_invalid_settings_are_refused(text: str, settings: Path) -> None:
    settings.write_text(text)
    with pytest.raises(InputError, match=r"write `trust: \[mypackage\]`"):
        trusted()
