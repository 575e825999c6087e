"""`lathe run --from RUN`: the configuration of a run, with changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.config.compose import compose
from experiments.core.errors import InputError
from experiments.results.manage.find import find_named_run
from experiments.trial.resume import recompose
from experiments.trial.trial import Trial, freeze

SMALL = ("model=mlp", "data=digits", "model.hidden_sizes=[9]", "tracking=off", "max_steps=7")


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATHE_RUNS", str(tmp_path / "runs"))
    return freeze(compose([*SMALL, "+tags.team=vision"]))


def test_values_that_follow_others_follow_the_changes(first: Trial) -> None:
    assert recompose(first, []).config == first.config
    other = recompose(first, ["data=mnist", "optimizer.lr=0.5", "max_steps=9"]).config
    assert (other["model"]["hidden_sizes"], other["tags"]) == ([9], {"team": "vision"})
    assert (other["model"]["num_features"], other["optimizer"]["lr"], other["max_steps"]) == (784, 0.5, 9)
    assert (
        "hidden_sizes" not in recompose(first, ["model=softmax"]).config["model"]
    )  # values of the other model are gone


def test_a_run_of_other_files_keeps_its_stored_values(tmp_path: Path, first: Trial) -> None:
    mine = tmp_path / "mine/optimizer"
    mine.mkdir(parents=True)
    option = mine / "slow.yaml"
    option.write_text("_target_: torch.optim.sgd.SGD\n_partial_: true\nlr: 0.001\n")
    own = freeze(compose([*SMALL, "optimizer=slow"], config_dirs=[tmp_path / "mine"]))
    option.write_text(option.read_text().replace("0.001", "0.002"))
    for _ in range(2):
        config = recompose(own, ["seed=3"]).config
        assert (config["optimizer"]["lr"], config["seed"], config["name"]) == (0.001, 3, own.config["name"])
        with pytest.raises(InputError, match="data=mnist cannot change a trial"):
            recompose(own, ["data=mnist"])
        option.unlink(missing_ok=True)
        option.with_name("other.yaml").touch()


def test_a_run_is_named_by_its_id_its_folder_or_its_file(
    tmp_path: Path, first: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (first.folder.name, first.folder.name[:5], str(first.folder), str(first.folder / "trial.yaml")):
        found = find_named_run(name)
        assert found is not None
        assert found.folder == first.folder
        assert main(["plan", "--from", name, "optimizer.lr=0.5", "--cfg"]) == 0
        assert "lr: 0.5" in capsys.readouterr().out
    for missing in ("share.yaml", "share.tar.gz"):
        assert find_named_run(missing) is None
    with pytest.raises(InputError, match="nosuch"):
        find_named_run("nosuch")
    elsewhere = tmp_path / "theirs/single/abc"
    elsewhere.parent.mkdir(parents=True)
    first.folder.rename(elsewhere)
    with pytest.raises(InputError, match="start from a file that its owner wrote with `lathe share`"):
        find_named_run(str(elsewhere))
