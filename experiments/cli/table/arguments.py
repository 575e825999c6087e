"""Arguments that several commands take, and the longest lists of arguments; `commands.py` has the table."""

from __future__ import annotations

from experiments.cli.command import argument
from experiments.core.runs_dir import choose_runs_dir

SHELLS = ["bash", "zsh", "fish"]

OVERRIDES_HELP = """overrides, in Hydra's grammar:
  model=mlp            choose an option of a group    optimizer.lr=0.01    set a value
  +tags.team=vision    add a key to a free map        ~tags.team           remove a key
  optimizer.lr=0.1,1   several values, in a sweep     sweep.num_seeds=3    a sweep key

exit codes: 0 done, 1 the run failed or was interrupted, 2 the input is wrong"""

SHELL_SETUP = """set up once:
  echo 'eval "$(lathe completion bash)"' >> ~/.bashrc     (for zsh: ~/.zshrc)
  echo 'lathe completion fish | source' >> ~/.config/fish/config.fish"""

OVERRIDES = argument("overrides", nargs="*", metavar="OVERRIDE", completes="override", help="any number; see below")
CFG = argument(
    "-c", "--cfg", nargs="?", const="job", choices=["job", "origins"], metavar="job|origins",
    help="print the configuration, or where each value is written, and exit",
)  # fmt: skip
FROM = argument(
    "--from",
    dest="shared",
    metavar="RUN|FILE",
    completes=("run", "shared_file"),
    help="start from the configuration of a run, or of a shared file",
)
CONFIG_DIR = argument(
    "-cd", "--config-dir", action="append", default=[], metavar="DIR", completes="folder",
    help="folder with your own groups and options",
)  # fmt: skip
TRUST = argument(
    "--trust",
    action="append",
    default=[],
    metavar="PACKAGE",
    help="allow _target_ to name classes of this package; with a folder, as in ./conf: files in it may set what a shell runs",
)
TRUST_CODE = argument(
    "--trust-code", action="store_true", help="run the code of a bundle, or of a run folder that is not yours"
)
HERE = argument(
    "--here", action="store_true", help="train in this process and terminal, for a debugger or a profiler; one device"
)
DETACH = argument("--detach", action="store_true", help="return as soon as it trains; it goes on without this terminal")
NEW = argument(
    "--new", action="store_true", help="start another sweep, also if there is one of this name, such as NAME-2"
)
REUSE = argument(
    "--reuse",
    action="store_true",
    help="if a run has finished with the same configuration, code and data, show that one",
)
RUNS_DIR = argument(
    "--runs-dir", type=lambda named: str(choose_runs_dir(named)), metavar="DIR", completes="folder",
    help="folder of the runs (%(default)s)",
)  # fmt: skip
JSON = argument("--json", action="store_true", help="print everything as one JSON document")
RUN = argument("run", metavar="RUN", completes="run", help="folder of the run, its id, or the beginning of the id")
TARGET = argument(
    "target", metavar="RUN|SWEEP", completes=("sweep", "run"), help="folder or name of a sweep, or of a run",
)  # fmt: skip

SIMULATE = (
    argument(
        "words", nargs="*", metavar="RUN|OVERRIDE", completes="override", completes_first="run",
        help="a run that has measured its steps, or overrides of an experiment",
    ),
    argument("--workers", metavar="N,N", help="numbers of workers (1,2,4,8,16,32,64)"),
    argument("--mode", metavar="MODE,MODE", help="sync, sync_servers, backup, async, hybrid (all)"),
    argument(
        "--times", metavar="NAME",
        help="compute time of a step: constant, lognormal:0.2, gamma:0.2, shifted_exponential:0.2 (as measured)",
    ),
    argument("--slow", metavar="N:FACTOR", help="N workers take FACTOR times as long"),
    argument("--servers", type=int, metavar="N", help="parameter servers (1)"),
    argument("--backup", type=int, metavar="N", help="slowest workers that a step does not wait for (one in twenty)"),
    argument("--group-size", type=int, metavar="N", help="workers in a group of the hybrid mode (those of a node)"),
    argument("--max-staleness", type=int, metavar="N", help="steps that a worker may be ahead of the slowest (any)"),
    argument("--samples", type=int, metavar="N", help="report the time to N examples (the whole training)"),
    argument("--cores", type=float, metavar="X", help="workers that the cores of a node serve at once (from hardware)"),
    argument("--seed", type=int, default=0, metavar="N", help="seed of the random times (0)"),
    argument("--against", action="append", default=[], metavar="RUN", help="compare with the measurements of a run"),
    JSON,
    argument("-o", "--output", metavar="DIR", help="write the figure, and the numbers as CSV and JSON"),
    CONFIG_DIR, TRUST, RUNS_DIR,
)  # fmt: skip

CLUSTER = (
    argument("action", metavar="VERB", choices=["up", "down", "status"], help="up, down or status"),
    argument("--nodes", type=int, metavar="N", help="up: number of simulated nodes (4)"),
    argument("--gpus", type=int, metavar="N", help="up: simulated GPUs per node (4)"),
    argument("--gpu-type", metavar="TYPE", help="up: type name of the GPUs (h100)"),
    argument("--cpus", type=int, metavar="N", help="up: CPUs per node; may be more than this machine has (8)"),
    argument("--memory-gb", type=int, metavar="N", help="up: memory per node; may be more than this machine has (64)"),
    argument("--accounting", action="store_true", default=None, help="up: run a database, for sacct and QOS"),
    argument("--dir", metavar="DIR", help="folder of the cluster (/dev/shm/lathe-cluster-USER)"),
)
