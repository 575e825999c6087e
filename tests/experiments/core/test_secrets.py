from __future__ import annotations

import pytest

from experiments.core.secret_formats import CREDENTIAL_FILES, SECRET_PHRASES
from experiments.core.secrets import find_secret_keys, find_secret_variables, has_secret, is_secret, resolve


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "tags.db_password",
        "api_key",
        "tags.apikey",
        "hf_token",
        "model.AUTH_TOKEN",
        "client_secret",
        "credentials",
        "tags.pgpassword",
        "gh_token",
        "db_pwd",
        "sentry-dsn",
        "slack_webhook_url",
        "session_cookie",
        "tags.ssh_key[0]",
    ],
)
def test_a_secret_is_recognised_by_its_key(key: str) -> None:
    assert is_secret(key, "hunter2")
    assert is_secret(key, "x${oc.env:A}")
    assert is_secret(key, "${oc.env:A,hunter2}")
    assert is_secret(key, "${oc.env:A,${oc.env:B,hunter2}}")
    assert not is_secret(key, "${oc.env:A}")
    assert not is_secret(key, "${oc.env:A,null}")
    assert not is_secret(key, "")
    assert not is_secret(key, None)


@pytest.mark.parametrize(
    "value",
    [
        "AKIAIOSFODNN7EXAMPLE", "ghp_0123456789abcdefghij", "github_pat_0123456789abcdefghij", "glpat-0123456789abcdefg",
        "hf_0123456789abcdefghij", "sk-0123456789abcdefghij", "xoxb-0123456789", "http://me:hunter2@host:5000",
        "postgresql+psycopg://me:hunter2@host/db", "-----BEGIN RSA PRIVATE KEY-----", "see sk-0123456789abcdefghij here",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "redis://:hunter2@host", "https://0123456789abcdefghij@host/x",
        "https://b.example.org/k?X-Amz-Credential=a&X-Amz-Signature=0123456789", "https://b.example.org/k?sv=1&sig=abcdef123%3D",
        "https://example.org/?x=1&X-Goog-Signature=0123456789", "GOCSPX-0123456789abcdefghij", "ya29.0123456789abcdefghij",
        "AccountKey=0123456789abcdefghij/+==", "https://hooks.slack.com/services/T0/B0/abcdef", "npm_0123456789abcdefghij",
        "https://discord.com/api/webhooks/1/abcdefgh", "-----BEGIN OPENSSH PRIVATE KEY-----", "hvs.0123456789abcdefghij",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----", "Authorization: Basic dXNlcjpwYXNz", "dapi0123456789abcdef0123456789abcdef",
    ],
)  # fmt: skip
def test_a_secret_is_recognised_by_its_form_under_any_key(value: str) -> None:
    assert is_secret("description", value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.pad_token", "<pad>"), ("num_tokens", "3"), ("tokenizer", "words"), ("password_file", "/run/password"),
        ("api_key_env", "OPENAI_API_KEY"), ("description", "risk-aware"), ("tracking.store", "http://127.0.0.1:5000"),
        ("tracking.store", "http://me:${oc.env:PASSWORD}@host"), ("secretary", "Ann"), ("keyboard", "qwerty"),
        ("data.files.a", "9342b58c02cc816888b0d2303487391e9db9ccc3348acfe2cfcacc81bbb5d8fe"), ("password", 3),
    ],
)  # fmt: skip
def test_harmless_keys_and_values_are_no_secrets(key: str, value: object) -> None:
    assert not is_secret(key, value)


def test_secrets_are_found_at_any_depth() -> None:
    config = {"a": {"password": "x", "b": ["y", "ghp_0123456789abcdefghij"]}, "c": 3}
    assert list(find_secret_keys(config)) == ["a.password", "a.b[1]"]
    assert list(find_secret_keys("x", "tags.password")) == ["tags.password"]


def test_references_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "one")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("B", raising=False)
    assert resolve({"x": ["${oc.env:A}", 3, None]}) == {"x": ["one", 3, None]}
    assert resolve("at ${oc.env:A}/${oc.env:B,two}") == "at one/two"
    assert resolve("${oc.env:B,'~/data, all'}") == "/home/me/data, all"
    assert resolve("${oc.env:B,${oc.env:A}}/${oc.env:A,${oc.env:B,x}}") == "one/one"
    assert resolve("${oc.env:B,null}") is None
    assert resolve("${oc.env:A,null}") == "one"
    assert resolve("~/data") == "~/data"


def test_an_unset_variable_without_default_is_reported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("B", raising=False)
    with pytest.raises(KeyError, match="B"):
        resolve({"x": "${oc.env:B}"})


SECRET_VARIABLES = {
    name: f"x9{number}{name[::-1].lower()[:3]}"
    for number, name in enumerate(
        ["PGPASSWORD", "GH_TOKEN", "GITLAB_TOKEN", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_TOKEN", "MYSQL_PWD", "SENTRY_DSN",
         "SLACK_WEBHOOK", "WANDB_API_KEY", "aws_secret_access_key", "Kaggle_Key", "MY_AUTH", "HTTP_COOKIE", "DB_CREDENTIAL",
         "SSHPASS", "DBPASS", "OPENAI_KEY", "X_PASSPHRASE_2", "AUTHTOKEN"]
    )
}  # fmt: skip
HARMLESS_VARIABLES = {
    "PWD": "/home/me", "OLDPWD": "somewhere", "KEYBOARD": "qwerty", "AUTHOR": "Arthur", "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_TRACKING_AUTH": "basic", "SSH_AUTH_SOCK": "/tmp/x", "GITHUB_SHA": "9342b58c02cc816888b0d2303487391e9db9ccc3",
    "PATH": "/usr/bin:/bin", "KEY_TIMEOUT": "30000", "TOKEN": "abcd", "MONKEY": "banana", "LANG": "en_GB.UTF-8",
    "NOTE": "a-long-name-of-a-model-v2-2026", "PACKAGE": "libcudnn9-cuda-12=9.10.2.21-1", "PYTHON_SHA256": "0a1b2c3d" * 8,
}  # fmt: skip


def test_secrets_are_found_in_variables_by_name_form_and_randomness() -> None:
    others = {"A": "Zx81kQm29sLpWv73TyRa", "B": "postgresql://me:pa%2055@host/db", "C": "ghp_0123456789abcdefghij"}
    found = find_secret_variables({**SECRET_VARIABLES, **HARMLESS_VARIABLES, **others})
    expected = {*SECRET_VARIABLES.values(), others["A"], others["C"], "pa%2055", "pa 55", others["B"]}
    assert {text for text in found if "%3A" not in text} == expected


@pytest.mark.parametrize(
    "text",
    [
        "password: x", "the password is hunter2", "PGPASSWORD=abc12", "run --token abc12", "api key: a1b2c3", "Passwort=geheim",
        "secret = 'sauce'", "key: ab12cd", "MYSQL_PWD=q", "cookie: a", "auth=a1b2c3",
    ],
)  # fmt: skip
def test_a_phrase_with_a_secret_is_recognised(text: str) -> None:
    assert SECRET_PHRASES.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "num_tokens: 5000", "pad_token: <pad>", "key: val/accuracy", "9 tokens per second", "pass 1 of 3", "the secretary",
        "auth=basic", "the key is to train longer", "token is a word", "password=${oc.env:NAME}", "keyboard: qwerty",
    ],
)  # fmt: skip
def test_an_ordinary_phrase_is_none(text: str) -> None:
    assert not SECRET_PHRASES.search(text)


@pytest.mark.parametrize(
    "line",
    ["db.x:5432:base:me:hunter2", "machine x login me password y", '{"username": "me", "key": "' + "0f" * 16 + '"}'],
)
def test_a_line_of_a_file_for_credentials_is_recognised(line: str) -> None:
    assert has_secret(f"first\n{line}\nlast")


def test_files_for_credentials_are_known_by_name() -> None:
    names = [
        ".env",
        "a/.env.local",
        "prod.env",
        ".pgpass",
        "x/.netrc",
        "kaggle.json",
        "a/id_ed25519",
        "secrets.yaml",
        "a.pem",
    ]
    assert all(CREDENTIAL_FILES.search(name) for name in names)
    names = ["environment.py", "secrets.py", "id_rsa.pub", "conf/model/mlp.yaml", "keys.py", "monkey.json", "env.py"]
    assert not any(CREDENTIAL_FILES.search(name) for name in names)
