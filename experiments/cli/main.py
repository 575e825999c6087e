"""The command line. It reads words and calls one function; nothing heavy is imported on the way to `--help`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence

from experiments.cli.parser import make_parser
from experiments.core.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 done, 1 the run failed, 2 the input is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["_complete"]:
        from experiments.cli.completion import complete

        print("\n".join(complete(words[1:])))
        return 0
    parser, parts = make_parser()
    try:
        if words and words[0] in parts:  # flags and overrides may stand in any order
            alone = argparse.Namespace(command=words[0])
            asked = parts[words[0]].parse_intermixed_args(list(_cfg_apart(words[1:])), alone)
        else:
            asked = parser.parse_args(words)
        if asked.command is None:
            parser.print_help()
            return 0
        from experiments.config.allowlist import find_here, find_house, trusted

        find_house()
        find_here(trusted(getattr(asked, "trust", ())))
        from experiments.cli import commands

        code = commands.call(asked)
        sys.stdout.flush()  # here, where a reader that has gone can be dealt with
        return code
    except InputError as err:
        print(err, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `lathe plan --cfg | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _cfg_apart(words: Sequence[str]) -> Iterator[str]:
    """The words of a command, `--cfg` kept from taking the override after it for its value, `--sort -KEY` kept together."""
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if _is_value(word, after):
            yield f"{word}={after}"
        elif not _is_value(before, word):
            yield "--cfg=job" if word in ("-c", "--cfg") and ("=" in after or after.startswith("~")) else word


def _is_value(flag: str, word: str) -> bool:
    """Whether a word that begins as a flag does is the value of the one before: `--sort -KEY`, or a wrong `--budget -5m`."""
    return (flag == "--sort" and bool(re.match(r"-\w", word))) or (flag == "--budget" and bool(re.match(r"-\d", word)))
