"""The commands that delete, name and count runs."""

from __future__ import annotations

from experiments.cli.command import Command, argument
from experiments.cli.table.arguments import JSON, RUN, RUNS_DIR, TARGET

YES = argument("--yes", "-y", action="store_true", help="delete; without it, only show what would be deleted")
KEEP_MLFLOW = argument("--keep-mlflow", action="store_true", help="leave the runs in MLflow, for a store that is gone")

MANAGE = (
    Command(
        "tag", "add tags to a run or a sweep, or show or remove them", "experiments.results.manage.annotate:tag",
        (
            TARGET,
            argument("tags", nargs="*", metavar="KEY=VALUE", help="such as team=vision; default: show the tags"),
            argument("--remove", action="append", default=[], metavar="KEY", help="remove this tag"),
            RUNS_DIR,
        ),
    ),
    Command(
        "note", "write a note about a run or a sweep, or show it", "experiments.results.manage.annotate:note",
        (
            TARGET,
            argument("text", nargs="?", metavar="TEXT", help="replaces the note; '' removes it; default: show the note"),
            RUNS_DIR,
        ),
    ),
    Command(
        "rename", "give a run another name; its id and its folder stay", "experiments.results.manage.annotate:rename",
        (RUN, argument("name", metavar="NAME", help="the new name"), RUNS_DIR),
    ),
    Command(
        "rm", "delete runs and sweeps: files, checkpoints, MLflow runs and artifacts", "experiments.results.remove.rm:rm",
        (
            argument(
                "names", nargs="+", metavar="RUN|SWEEP", completes=("sweep", "run"),
                help="folder or name of a sweep, or of a run that belongs to no sweep",
            ),
            YES,
            argument("--force", action="store_true", help="also a run that is the origin of others, or whose machine is gone"),
            KEEP_MLFLOW, JSON, RUNS_DIR,
        ),
    ),
    Command(
        "gc", "delete what is no longer needed: left-overs of killed processes, old checkpoints",
        "experiments.results.remove.gc:gc",
        (
            argument(
                "--checkpoints", action="store_true", help="all checkpoints of ended runs but the newest and the best of each"
            ),
            argument(
                "--failed", type=float, metavar="DAYS", help="runs that ended without a step, more than DAYS days ago"
            ),
            YES, KEEP_MLFLOW, JSON, RUNS_DIR,
        ),
    ),
    Command(
        "usage", "add up the device-hours of runs by user, project, time or tag", "experiments.results.usage.usage:usage",
        (
            argument(
                "condition", nargs="?", metavar="CONDITION", completes="search_key",
                help="only these runs, as in `lathe ls`; default: all",
            ),
            argument(
                "--by", default="user", metavar="KEY,KEY", completes="usage_key",
                help="user, project, day, week, month, or keys of `lathe ls` such as tags.team, sweep, hardware (user)",
            ),
            argument("--since", metavar="DATE", help="count from this date on: 2026-11-24"),
            argument("--until", metavar="DATE", help="count up to this date"),
            JSON, RUNS_DIR,
        ),
    ),
)  # fmt: skip
