"""What a command of `lathe` consists of. The parser, the dispatch, the help and the shell completion all read it.

Named tuples, as `dataclasses` alone takes 10 ms to import (2026-11-29), and `lathe --help` has 0.3 s.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class CommandArgument(NamedTuple):
    """A positional argument or a flag."""

    names: tuple[str, ...]
    """The flags, short one first; of a positional argument its name in `args`."""
    options: dict[str, Any]
    """Keyword arguments of `argparse.ArgumentParser.add_argument`."""
    completes: tuple[str, ...] = ()
    """What shell completion offers for it: names of `completion.COMPLETERS`."""
    completes_first: tuple[str, ...] = ()
    """What completion offers besides, for the first of several values."""

    @property
    def is_flag(self) -> bool:
        return self.names[0].startswith("-")

    @property
    def is_required(self) -> bool:
        """Whether the command cannot do without a value for it."""
        return bool(self.options.get("required")) or (
            not self.is_flag and self.options.get("nargs", "+") not in ("?", "*")
        )

    @property
    def takes_value(self) -> bool:
        """True for a flag that the next word on the command line belongs to."""
        return self.is_flag and "nargs" not in self.options and self.options.get("action") != "store_true"

    @property
    def takes_many(self) -> bool:
        return self.options.get("nargs") in ("*", "+")


class Command(NamedTuple):
    """One command.

    Example:
        ``Command("data", "list the data sets", "experiments.cli.listings:data", (CONFIG_DIR,))``
    """

    name: str
    summary: str
    function: str
    """``module:name`` of a function that takes the parsed `argparse.Namespace` and returns the exit code."""
    arguments: tuple[CommandArgument, ...] = ()
    epilog: str | None = None
    """Printed at the end of its ``--help``."""


def argument(
    *names: str, completes: tuple[str, ...] | str = (), completes_first: tuple[str, ...] | str = (), **options: Any
) -> CommandArgument:
    """Make an argument in the notation of `add_argument`; a single kind of completion may be a plain string."""
    kinds, first = (((each,) if isinstance(each, str) else each) for each in (completes, completes_first))
    return CommandArgument(names, options, kinds, first)
