from __future__ import annotations

import pytest

from experiments.core.secrets import find_secret_keys, is_secret, resolve


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
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
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
