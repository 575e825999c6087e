"""A project file: found from a folder below, counts when it is trusted, and replaces flags."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments import api
from experiments.cli.completion import complete
from experiments.cli.main import main
from experiments.cli.project.project_file import find_project
from experiments.core.errors import InputError

SETTINGS = (
    '[tool.lathe]\nconf = "conf"\nsweeps = ["more/sweeps"]\ntrust = ["minelab"]\nruns_dir = "all_runs"\n'
    'data_root = "my_data"\n'
)
MINE = "# Mine.\n_target_: minelab.net.Net\nnum_features: ${data.num_features}\nnum_classes: ${data.num_classes}\n"
NET = (
    "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self, num_features: int, num_classes: int):\n"
    "        super().__init__()\n        self.layer = torch.nn.Linear(num_features, num_classes)\n\n"
    "    def forward(self, inputs):\n        return self.layer(inputs.flatten(1))\n"
)


@pytest.fixture
def project(tmp_path: Path, new_user: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a model of its own; the current folder is below it."""
    folder = tmp_path / "project"
    for name, content in {
        "pyproject.toml": SETTINGS,
        "conf/model/mine.yaml": MINE,
        "more/sweeps/sizes.yaml": "base: [model=mine]\nspace: {seed: [1, 2]}\n",
        "minelab/__init__.py": "",
        "minelab/net.py": NET,
        "notes/today.txt": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.chdir(folder / "notes")
    return folder


def test_settings_count_only_after_trust(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model=mine"]) == 2
    shown = capsys.readouterr().err
    assert f"note: the settings of {project / 'pyproject.toml'} do not count" in shown
    assert f"`lathe trust {project}`" in shown
    assert main(["trust", str(project)]) == 0
    assert "trust: minelab" in capsys.readouterr().out
    assert main(["plan", "model=mine", "--cfg"]) == 0
    assert "_target_: minelab.net.Net" in capsys.readouterr().out
    assert (os.environ["LATHE_RUNS"], os.environ["LATHE_DATA"]) == (str(project / "all_runs"), str(project / "my_data"))
    assert complete(["lathe", "run", "model=mi"]) == ["model=mine"]
    assert complete(["lathe", "sweep", "siz"]) == ["sizes"]
    (project / "pyproject.toml").write_text('[project]\nname = "other"\n' + SETTINGS)  # the rest of the file is free
    assert main(["plan", "model=mine", "--cfg"]) == 0
    (project / "pyproject.toml").write_text(SETTINGS.replace('"minelab"', '"minelab", "more"'))
    assert main(["plan", "model=mine", "--cfg"]) == 2
    assert "do not count" in capsys.readouterr().err


def test_the_python_api_reads_the_project(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="model=mine is not an option"):
        api.compose("model=mine")
    assert "note: the settings of" in capsys.readouterr().err
    assert main(["trust", ".."]) == 0
    experiment = api.compose(["model=mine"])
    assert experiment.config["model"]["_target_"] == "minelab.net.Net"
    assert experiment.trust == ("minelab",)
    assert experiment.config_dirs == (str(project / "conf"),)


def test_a_variable_of_the_user_comes_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_RUNS", "/elsewhere")
    assert main(["trust", ".."]) == 0
    assert main(["options", "model"]) == 0
    assert os.environ["LATHE_RUNS"] == "/elsewhere"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('config = "conf"\n', "[tool.lathe] has no key 'config'; did you mean 'conf'?"),
        ("[defaults]\nlauncher = 'slurm'\n", "[tool.lathe] has no key 'defaults'; write them into `config.yaml`"),
        ("conf = 3\n", "conf=3 is not a text or a list of texts"),
        ('runs_dir = ["a"]\n', "runs_dir=['a'] is not a text"),
        ("conf = \n", "is not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_told(
    project: Path, capsys: pytest.CaptureFixture[str], settings: str, message: str
) -> None:
    (project / "lathe.toml").write_text(settings)
    assert main(["trust", str(project)]) == 2
    assert message in capsys.readouterr().err


def test_the_nearest_file_with_settings_counts(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "notes" / "pyproject.toml").write_text("[project]\nname = 'inner'\n")
    found = find_project()
    assert found is not None
    assert found.file == project / "pyproject.toml"
    (project / "lathe.toml").write_text('conf = "other"\n')
    found = find_project()
    assert found is not None
    assert found.file == project / "lathe.toml"
    assert main(["trust", str(project.parent)]) == 2
    assert "has no lathe.toml and no pyproject.toml with [tool.lathe]" in capsys.readouterr().err
