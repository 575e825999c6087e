"""Split off.."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from experiments.core.errors import InputError, did_you_mean

VERSION = "0.1.0"


SHELLS = ["bash", "zsh", "fish"]


SUMMARY = "Turns YAML into trained, tracked, reproducible models."


EXAMPLES = """examples:
  lathe run experiment=digits_lenet       train a small network, in less than a minute
  lathe plan model=mlp optimizer.lr=0.01  say what a run would need
  lathe sweep lr_batch                    compare learning rates and batch sizes
  lathe options model                     list the models

"""


SETUP = """once and for all:
  echo 'eval "$(lathe completion bash)"' >> ~/.bashrc     (zsh likewise, in ~/.zshrc)
  echo 'lathe completion fish | source' >> ~/.config/fish/config.fish"""


EPILOG = """overrides, in Hydra's grammar:
  model=mlp            choose an option of a group    optimizer.lr=0.01    set a value
  +tags.team=vision    add a key to a free map        ~tags.team           remove a key
  optimizer.lr=0.1,1   several values, in a sweep     sweep.seeds=3        a sweep's key

exit codes: 0 done, 1 the run failed or was stopped, 2 the input is wrong"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """A column for the flags in which the longest fits."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaints in the house's form."""

    def error(self, message: str) -> NoReturn:
        name, _, rest = message.removeprefix("argument ").partition(": ")
        flag = name.split("/")[-1]
        if name == "the following arguments are required":
            message = f"{rest.partition(',')[0]} is missing; usage: {self._usage()}"
        elif name == "unrecognized arguments":
            message = self._unrecognized(rest.split()[0])
        elif rest.startswith("invalid choice: "):
            message = self._unknown_word(flag, rest)
        elif rest.startswith("expected one argument"):
            message = f"{flag} stands without a value; usage: {self._usage()}"
        elif rest.startswith("invalid float value: "):
            value = rest.rpartition(": ")[2].strip("'")
            message = f"{flag} {value} is not a number; write `{flag} 1e-6` or the like"
        elif rest.startswith("invalid int value: "):
            value = rest.rpartition(": ")[2].strip("'")
            message = (
                f"{flag} {value} is not a whole number; write `{flag} {5001 if flag == '--port' else 4}` or the like"
            )
        raise InputError([message], f"`{self.prog}`")

    def _usage(self) -> str:
        return " ".join(self.format_usage().removeprefix("usage: ").split())

    def _unrecognized(self, word: str) -> str:
        if word in ("-m", "--multirun"):
            return f"{word} is no flag of this command; `lathe run -m` takes it"
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        if word.startswith("-"):
            return f"{word} is no flag of this command; {did_you_mean(word.split('=')[0], flags)}"
        return f"{word} is one word too many; usage: {self._usage()}"

    def _unknown_word(self, name: str, rest: str) -> str:
        word = rest.split("'")[1]
        known = rest.rpartition("choose from ")[2].rstrip(")").replace("'", "").split(", ")
        if name == "COMMAND" and "=" in word:
            return f"{word} is an override, and a command comes first; write `lathe run {word}`"
        if name.startswith("-"):
            return f"{name} {word} is not known; {did_you_mean(word, known)}"
        return f"{word!r} is not a {name}; {did_you_mean(word, known)}"


def make_parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The whole command line, and the part of each command."""
    parser = _Parser("lathe", description=SUMMARY, epilog=EXAMPLES + EPILOG, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"lathe {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=summary, epilog=EPILOG if name in ("run", "plan", "sweep") else None,
            formatter_class=_Help, allow_abbrev=False,
        )  # fmt: skip

    for name, summary in (("run", "train one experiment"), ("plan", "say what a run would need, or why it cannot run")):
        part = command(name, summary)
        part.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as many as you like, see below")
        part.add_argument(
            "-c",
            "--cfg",
            nargs="?",
            const="job",
            choices=["job"],
            metavar="job",
            help="print the configuration, and do nothing else",
        )
        part.add_argument("--from", dest="shared", metavar="FILE", help="the configuration of a shared file")
        _add_composition(part)
        if name == "run":
            part.add_argument("-m", "--multirun", action="store_true", help="a sweep over all that has several values")
            _add_detach(part)
    part = command("sweep", "run the trials of a question")
    part.add_argument("sweep", metavar="NAME", help="a file of the folder sweeps/, without .yaml, or the path of one")
    part.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="of the experiment, of the space (key=a,b), or sweep.KEY=VALUE"
    )
    _add_composition(part)
    _add_detach(part)
    part = command("resume", "go on with a run or a sweep: what is missing, failed or lost")
    part.add_argument("run", metavar="RUN|SWEEP", help="folder or name of it, or the name's beginning")
    part.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="of a run where it goes on, such as parallel=zero3; of a sweep what it is extended by",
    )
    _add_detach(part)
    _add_trust(part)
    _add_runs_dir(part)
    part = command("status", "show where a sweep stands, or all sweeps")
    part.add_argument("sweep", nargs="?", metavar="SWEEP", help="name or folder of it; default: a line for each")
    part.add_argument("--all", action="store_true", help="every trial, however many")
    part.add_argument("--failed", action="store_true", help="the trials that failed alone")
    part.add_argument("--watch", action="store_true", help="until the sweep is over or Ctrl-C comes")
    part.add_argument("--json", action="store_true", help="everything, as one JSON document")
    _add_runs_dir(part)
    part = command("logs", "show what the trials of a sweep print")
    part.add_argument("sweep", metavar="SWEEP", help="name or folder of it")
    part.add_argument(
        "trial", nargs="?", metavar="TRIAL", help="its id or the beginning, or KEY=VALUE; default: those that failed"
    )
    part.add_argument("--attempt", type=int, metavar="N", help="default: the newest")
    part.add_argument("--rank", type=int, default=0, metavar="K", help="of a trial on several devices (0)")
    part.add_argument("--follow", action="store_true", help="go on until the trial has ended or Ctrl-C comes")
    part.add_argument("--workers", action="store_true", help="what the workers print, not the trials")
    _add_runs_dir(part)
    part = command("cancel", "end a sweep, or some of its trials; what runs saves first")
    part.add_argument("sweep", metavar="SWEEP", help="name or folder of it")
    part.add_argument(
        "trials", nargs="*", metavar="TRIAL|STATE|KEY=VALUE", help="only these: an id, waiting, optimizer=sgd"
    )
    _add_runs_dir(part)
    part = command("sync", "bring runs to MLflow's store")
    part.add_argument("runs", nargs="*", metavar="RUN", help="default: all in the runs folder")
    _add_runs_dir(part)
    part = command("ui", "open MLflow's UI on the runs")
    part.add_argument("--store", metavar="URI|FILE", help="default: the SQLite file in the runs folder")
    part.add_argument("--experiment", default="lathe", metavar="NAME", help="MLflow experiment to open (lathe)")
    part.add_argument("--sweep", metavar="NAME", help="open the page of this sweep, in the store that it stands in")
    part.add_argument("--port", type=int, help="default: a free one")
    _add_runs_dir(part)
    part = command("ls", "list the runs that a condition holds for")
    part.add_argument(
        "condition", nargs="?", metavar="CONDITION", help="such as 'optimizer.lr<0.01 and val/accuracy_top1>0.9'"
    )
    part.add_argument(
        "--sort", metavar="KEY", help="a metric or key to sort by, -KEY the other way round; default: newest first"
    )
    part.add_argument("--json", action="store_true", help="everything, as one JSON document")
    _add_runs_dir(part)
    part = command("diff", "say what two runs differ by")
    for name, which in (("one", "A"), ("other", "B")):
        part.add_argument(name, metavar=which, help="a run, a shared file, or overrides of an experiment in quotes")
    part.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="relative distance of metrics that counts as equal (0)",
    )
    part.add_argument("--json", action="store_true", help="everything, as one JSON document")
    _add_composition(part)
    _add_runs_dir(part)
    part = command("reproduce", "run a run again, with its own code, and compare")
    part.add_argument("run", metavar="RUN|FILE", help="folder, id or its beginning, MLflow run id, or a shared file")
    part.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="where it runs: hardware=... parallel=...")
    part.add_argument("--steps", type=int, metavar="N", help="only the first N steps")
    part.add_argument("--check", metavar="OTHER", help="compare with a run that is there, and run nothing")
    part.add_argument("--tolerance", type=float, metavar="X", help="relative distance of metrics that counts as equal")
    part.add_argument("--keep-code", action="store_true", help="leave the restored code where it is")
    part.add_argument("--trust-code", action="store_true", help="use the code that comes with a shared bundle")
    _add_trust(part)
    _add_runs_dir(part)
    part = command("share", "write a run to one file that others can run and reproduce")
    part.add_argument("run", metavar="RUN", help="folder of it, id or its beginning, or MLflow's id of it")
    part.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="such as lenet.yaml, or lenet.tar.gz with --bundle"
    )
    part.add_argument("--bundle", action="store_true", help="one archive with the uncommitted code and the weights too")
    part.add_argument("--force", action="store_true", help="write over a file that is there")
    _add_runs_dir(part)
    part = command("export", "write a run's model as an MLflow model, with safe weights")
    part.add_argument("run", metavar="RUN", help="folder of it, id or its beginning")
    part.add_argument("-o", "--output", required=True, metavar="DIR", help="a new folder")
    part.add_argument("--register-as", metavar="NAME", help="register it in the run's store under this name too")
    _add_trust(part)
    _add_runs_dir(part)
    part = command("predict", "say what a run's model makes of your images or texts")
    part.add_argument("run", metavar="RUN", help="folder of it, id or its beginning")
    part.add_argument(
        "inputs", nargs="*", metavar="INPUT",
        help="images, folders, patterns; or texts, as the data is; - or none: lines of standard input",
    )  # fmt: skip
    part.add_argument(
        "-o", "--output", metavar="DIR",
        help="where files go that are part of an answer, such as masks; a folder that is an INPUT leaves it out",
    )  # fmt: skip
    part.add_argument("--json", action="store_true", help="one JSON object a line")
    part.add_argument(
        "--set", action="append", default=[], dest="changes", metavar="KEY=VALUE",
        help="how it is asked, such as evaluator.num_shown=3",
    )  # fmt: skip
    _add_trust(part)
    _add_runs_dir(part)
    part = command("report", "write a page, figures and a table of a sweep or of runs")
    part.add_argument("runs", nargs="+", metavar="SWEEP|RUN", help="one sweep, or any number of runs")
    part.add_argument("-o", "--output", metavar="DIR", help="default: the folder report/ of the sweep, else ./report")
    _add_runs_dir(part)
    part = command("zoo", "show what every experiment measured, measure it, write the page of it")
    part.add_argument(
        "words", nargs="*", metavar="NAME|OVERRIDE", help="experiments or rows (all); overrides of every run"
    )
    part.add_argument("--run", action="store_true", help="measure what was not measured as it is now")
    part.add_argument("--write", action="store_true", help="write the page from headers and records")
    part.add_argument("--check", action="store_true", help="say whether the page is what they give")
    part.add_argument("--budget", metavar="TIME", help="of one run, such as 10m; it is planned shorter to fit")
    part.add_argument("--seeds", type=int, metavar="N", help="runs of each row (3)")
    part.add_argument("--again", action="store_true", help="measure also what was measured")
    part.add_argument("--page", default="docs/zoo.md", metavar="FILE", help="its records lie beside it (docs/zoo.md)")
    _add_composition(part)
    part = command("simulate", "say how fast replicas would train together, before there are any")
    _add_simulation(part)
    part = command("options", "list groups, their options and keys")
    part.add_argument("group", nargs="?", metavar="GROUP[=OPTION]")
    _add_config_dir(part)
    part = command("data", "list data sets: whether they are present, licence, source")
    _add_config_dir(part)
    part = command("rehearse", "start a real SLURM cluster on this machine, to throw away")
    _add_rehearsal(part)
    part = command("completion", "print what makes a shell complete lathe's words")
    part.epilog = SETUP
    part.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    return parser, commands.choices


def _add_simulation(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "words",
        nargs="*",
        metavar="RUN|OVERRIDE",
        help="a run that has measured its steps, or overrides of an experiment",
    )
    for flag, name, text in (
        ("--workers", "N,N", "numbers of workers (1,2,4,8,16,32,64)"),
        ("--mode", "MODE,MODE", "sync, sync_servers, backup, async, hybrid (all)"),
        ("--times", "NAME", "of computing: constant, lognormal:0.2, gamma:0.2, shifted_exponential:0.2 (as measured)"),
        ("--slow", "N:FACTOR", "so many workers take FACTOR times as long"),
    ):
        part.add_argument(flag, metavar=name, help=text)
    for flag, text in (
        ("--servers", "parameter servers (1)"),
        ("--backup", "of the workers so many are not waited for (one in twenty)"),
        ("--group-size", "workers of a hybrid's group (those of a node)"),
        ("--max-staleness", "steps that a worker may be ahead of the slowest (any)"),
        ("--samples", "the time to so many examples (of the whole training)"),
    ):
        part.add_argument(flag, type=int, metavar="N", help=text)
    part.add_argument(
        "--cores", type=float, metavar="X", help="workers that a node's cores serve at once (as hardware says)"
    )
    part.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (0)")
    part.add_argument(
        "--against", action="append", default=[], metavar="RUN", help="compare with what another run has measured"
    )
    part.add_argument("--json", action="store_true", help="everything, as one JSON document")
    part.add_argument("-o", "--output", metavar="DIR", help="write the figure, and the numbers as CSV and JSON")
    _add_composition(part)
    _add_runs_dir(part)


def _add_rehearsal(part: argparse.ArgumentParser) -> None:
    part.add_argument("action", metavar="VERB", choices=["up", "down", "status"], help="up, down or status")
    part.add_argument("--nodes", type=int, metavar="N", help="up: simulated nodes (4)")
    part.add_argument("--gpus", type=int, metavar="N", help="up: simulated GPUs of each (4)")
    part.add_argument("--gpu-type", metavar="TYPE", help="up: what they are called (h100)")
    part.add_argument("--cpus", type=int, metavar="N", help="up: CPUs of each, whatever this machine has (8)")
    part.add_argument("--memory-gb", type=int, metavar="N", help="up: memory of each, likewise (64)")
    part.add_argument("--accounting", action="store_true", default=None, help="up: with a database, for sacct and QOS")
    part.add_argument("--dir", metavar="DIR", help="its folder (/dev/shm/lathe-rehearsal-USER)")


def _add_composition(part: argparse.ArgumentParser) -> None:
    _add_config_dir(part)
    _add_trust(part)


def _add_detach(part: argparse.ArgumentParser) -> None:
    part.add_argument("--detach", action="store_true", help="return when the workers of a sweep are started")


def _add_config_dir(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "-cd",
        "--config-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="folder with groups and options of your own",
    )


def _add_trust(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="let _target_ name classes of this package"
    )


def _add_runs_dir(part: argparse.ArgumentParser) -> None:
    default = os.environ.get("LATHE_RUNS", "runs")
    part.add_argument("--runs-dir", default=default, metavar="DIR", help=f"folder of the runs ({default})")
