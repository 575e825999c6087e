"""Hypothesis strategies that damage the content of a file as a crash, a bad disk or an attacker does."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

TOKENS = [
    b"", b"\0", b"\xff", b"\n", b"\r\n", b"\t", b"[", b"{", b"]", b"}", b'"', b"'", b":", b": ", b"- ",
    b"? ", b"&a ", b"*a", b"!!int ",
    b"!!python/name:os.system ", b"<<: ", b"...\n", b"---\n", b"null", b"true", b"nan", b".nan", b"Infinity", b"1e999", b"-1",
    b"9" * 400, b"9" * 5000, b"[" * 200, b"[" * 20_000, b'{"a":' * 2000, b"${oc.env:NOPE}", b"${a}", b"../", b"~nosuchuser/",
    "ü\u202e".encode(), b"\x1b[31m", b"\xef\xbb\xbf", b"x" * 300,
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, contents: Sequence[bytes], max_changes: int = 4) -> bytes:
    """One of the contents after some changes: bits flipped, parts cut out, repeated, exchanged or replaced by a token."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, max_changes))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 2, 8, 64, 1 << 20])))
        kind = draw(st.sampled_from(["flip", "cut", "repeat", "token", "token", "move"]))
        if kind == "flip" and start < len(content):
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "repeat":
            content[end:end] = content[start : min(end, start + 4096)]
        elif kind == "move":
            part, content[start:end] = content[start:end], b""
            content[: 0 if len(part) > 4096 else draw(st.integers(0, len(content)))] += part
        else:
            content[start:end] = draw(st.sampled_from(TOKENS)) if kind == "token" else b""
    return bytes(content)
