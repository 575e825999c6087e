"""Error messages about missing options and faulty option files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import options
from experiments.config.source_map import shown_path
from experiments.core.errors import did_you_mean
from experiments.core.renamed import suggestion


def lists(group: str = "") -> str:
    """A hint with the command that lists the options of a group, or all groups."""
    return f"`{f'lathe options {group}'.strip()}` lists the {'options' if group else 'groups'}"


def other_option(missing: str, groups: Mapping[str, Mapping[str, Path]]) -> str:
    """The hint for a ``group/option`` that does not exist."""
    group, _, option = missing.rpartition("/")
    if group in groups:
        return suggestion(option, groups[group], lists(group))
    absolute = next((known for known in groups if group.endswith(f"/{known}")), None)
    return f"write `override /{absolute}: {option}`" if absolute else did_you_mean(group, groups, lists())


def faulty_file(err: Exception, dirs: Sequence[Path]) -> str | None:
    """The file that fails with the same error; the user's files are tried first."""
    paths = [path for folder in reversed(options.folders(dirs)) for path in sorted(folder.rglob("*.yaml"))]
    for path in paths:
        try:
            OmegaConf.load(path)
        except type(err) as same:
            if isinstance(err, RecursionError) or str(same).splitlines()[0] == str(err).splitlines()[0]:
                return shown_path(path)
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError):
            continue
    return None
