from __future__ import annotations

import socket
from pathlib import Path

import pytest

from experiments.results.share.redact import Redactor, vocabulary
from experiments.trial.trial import Trial
from tests.support.stores import make_run, start_attempt

ME = Redactor(
    users=["zaphod", "Zaphod Beeblebrox", "max", "root", "jo"],
    hosts=["gold7.heart.example.org", "localhost", "v"],
    folders=["/home/zaphod/my work", "/scratch", "/tmp", "/"],
    secrets=["swordfish-42", "abc"],
)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("by zaphod", "by [user]"),
        ("by Zaphod Beeblebrox, of course", "by [user], of course"),
        ("ZAPHOD's run", "[user]'s run"),
        ("zaphod_best and zaphods and azaphod", "[user]_best and zaphods and azaphod"),
        ("on gold7, that is gold7.heart.example.org", "on [host], that is [host]"),
        ("at 192.168.1.20 and db.corp:5432 and 8.8.8.8", "at [host] and [host]:5432 and 8.8.8.8"),
        ("in /home/zaphod/my work/run 1", "in [folder]/run 1"),
        ("in /scratch too, not in /scratches", "in [folder] too, not in /scratches"),
        ("see /mnt/big/set.npz.", "see [folder]"),
        ("see ~/notes.md or ~ford/x or file:///opt/it/x", "see [folder] or [folder] or [folder]"),
        (r"see C:\Users\me\x.txt or \\nas\share", "see [folder] or [folder]"),
        ("on host:/mnt/a/b and file:/home/jane/x and x:/home/jane/x", "on host:[folder] and [folder] and [folder]"),
        ("C:/Users/jane/x and //fileserver/jane", "[folder] and [folder]"),
        ("see a/home/jane and (x)/Users/jane", "see a[folder] and (x)[folder]"),
        ("s3://jane-private/set and gs://jane/x", "[folder] and [folder]"),
        ("ran on gpu-node17.cluster.example.edu", "ran on [host]"),
        ("mail zaphod@example.org", "mail [address]"),
        ("the word is swordfish-42!", "the word is ***!"),
        ("token ghp_" + "a1" * 15, "token ***"),
        ("--pass" + "word='opensesame'", "--***"),
        ("\u202eevil\x1b[2J", "evil[2J"),
    ],
)
def test_secrets_and_names_are_replaced_by_their_kind(text: str, redacted: str) -> None:
    assert ME.redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "the square root of max_steps, by max",
        "train/loss_nats and/or val/accuracy_top1, 3/4 of it at 10 steps/s",
        "see https://arxiv.org/abs/1412.6980 and doi:10.1038/323533a0",
        "abc on localhost, jo",
        "freeze layer1.block.weight of resnet18.net, see https://www2.lab.example.org/a and torch 2.13.0",
        "lr=1e-3, betas=(0.9, 0.999) ~ what the paper has",
        "two lines\nand\ta tab, a family \U0001f468\u200d\U0001f469\u200d\U0001f467",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert ME.redact(text) == text


def test_overlapping_findings_are_replaced_completely() -> None:
    assert ME.redact("/home/zaphod/gold7/swordfish-42 zaphod") == "[folder] [user]"


def test_in_code_only_known_names_and_secrets_count() -> None:
    code = "#!/usr/bin/env python\nURL = '/api/v1/runs'\nAUTHOR = 'someone@example.org'\n"
    assert ME.find(code)
    assert ME.find_known(code) == []
    assert [finding.kind for finding in ME.find_known(f"{code}DATA = '/home/zaphod/my work'\n")] == ["user", "folder"]


def test_words_of_the_built_in_configurations_are_not_names() -> None:
    assert {"max", "adam", "lenet", "data", "local"} <= vocabulary()
    assert not {"zaphod", "ginsparg", "beeblebrox"} & vocabulary()


def test_a_redactor_for_a_run_knows_its_machines_and_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "trillian")
    monkeypatch.setenv("HOME", "/home/trillian")
    monkeypatch.setenv("SLURMD_NODENAME", "magrathea12")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://arthur:" + "tea@mice.example.org/mlflow")
    monkeypatch.setenv("TEA_PASSWORD", "no tea at all")
    monkeypatch.setattr(socket, "gethostname", lambda: "deep-thought.example.org")
    trial = make_run(tmp_path)
    start_attempt(trial).close()
    redactor = Redactor.for_run(trial)
    text = f"trillian /home/trillian magrathea12 mice.example.org deep-thought {trial.folder} 'no tea at all'"
    assert redactor.redact(text) == "[user] [folder] [host] [host] [host] [folder] '***'"


def test_a_redactor_knows_the_files_for_credentials_and_the_nodes_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        ".netrc": "machine x.org login me password net12\n", ".pgpass": "db:5432:base:me:pgp12\n",
        ".kaggle/kaggle.json": '{"username": "me", "key": "kag12"}\n', ".cache/huggingface/token": "hug12\n",
        ".aws/credentials": "[default]\naws_secret_access_key = aws12\n", ".env": "DB_PASS=env12\nexport API_KEY='env34'\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "magrathea[01-04],vogsphere")
    (tmp_path / "trial.yaml").write_text("tracking: {store: null}\n")
    (tmp_path / "provenance.yaml").write_text("config_dirs: []\n")
    redactor = Redactor.for_run(Trial(tmp_path))
    text = "net12 pgp12 kag12 hug12 aws12 env12 env34 on vogsphere and gpu-node-017, node3"
    assert redactor.redact(text) == "*** *** *** *** *** *** *** on [host] and [host], [host]"
    assert redactor.find("a100 node3 aws123") == []
