"""The table of commands. A new command is one entry here and one function."""

from __future__ import annotations

from experiments.cli.command import Command, argument
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
    "-c", "--cfg", nargs="?", const="job", choices=["job"], metavar="job", help="print the configuration and exit"
)
FROM = argument(
    "--from",
    dest="shared",
    metavar="FILE",
    completes="shared_file",
    help="start from the configuration of a shared file",
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
DETACH = argument("--detach", action="store_true", help="return as soon as the workers of the sweep are started")
RUNS_DIR = argument(
    "--runs-dir", type=lambda named: str(choose_runs_dir(named)), metavar="DIR", completes="folder",
    help="folder of the runs (%(default)s)",
)  # fmt: skip
JSON = argument("--json", action="store_true", help="print everything as one JSON document")
RUN = argument("run", metavar="RUN", completes="run", help="folder of the run, its id, or the beginning of the id")
SWEEP = argument("sweep", metavar="SWEEP", completes="sweep", help="name or folder of the sweep")

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


COMMANDS = (
    Command(
        "run", "train one experiment", "experiments.cli.run:run",
        (
            argument(
                "overrides", nargs="*", metavar="OVERRIDE", completes=("override", "multirun_key"), help="any number; see below"
            ),
            CFG, FROM, CONFIG_DIR, TRUST,
            argument("-m", "--multirun", action="store_true", help="run a sweep over every key with several values"),
            DETACH, HERE,
        ),
        OVERRIDES_HELP,
    ),
    Command(
        "plan", "show what a run needs, or why it cannot run", "experiments.cli.plan:plan",
        (OVERRIDES, CFG, FROM, CONFIG_DIR, TRUST),
        OVERRIDES_HELP,
    ),
    Command(
        "check", "plan every experiment and sweep of your configuration folders", "experiments.cli.check:check_all",
        (OVERRIDES, CONFIG_DIR, TRUST),
        OVERRIDES_HELP,
    ),
    Command(
        "resume", "continue an interrupted run or sweep", "experiments.cli.run:resume",
        (
            argument(
                "run", metavar="RUN|SWEEP", completes=("sweep", "run"),
                help="folder or name of a sweep; folder or id of a run, or the beginning of the id",
            ),
            argument(
                "overrides", nargs="*", metavar="OVERRIDE", completes="sweep_key",
                help="for a run: where it continues, such as parallel=zero3; for a sweep: how to extend it",
            ),
            DETACH, HERE, TRUST_CODE, TRUST, RUNS_DIR,
        ),
    ),
    Command(
        "sweep", "run the trials of a sweep", "experiments.cli.sweep:sweep",
        (
            argument(
                "sweep", metavar="NAME", completes="sweep_file",
                help="a file in sweeps/, without .yaml, or the path of a file",
            ),
            argument(
                "overrides", nargs="*", metavar="OVERRIDE", completes=("override", "sweep_key"),
                help="of the experiment, of the search space (key=a,b), or sweep.KEY=VALUE",
            ),
            CONFIG_DIR, TRUST, DETACH,
        ),
        OVERRIDES_HELP,
    ),
    Command(
        "status", "show the progress of one sweep or of all sweeps", "experiments.cli.sweep:status",
        (
            argument(
                "sweep", nargs="?", metavar="SWEEP", completes="sweep",
                help="name or folder of the sweep; default: one line for each sweep",
            ),
            argument("--all", action="store_true", help="show every trial, even of a large sweep"),
            argument("--failed", action="store_true", help="show only the failed trials"),
            argument("--watch", action="store_true", help="update until the sweep ends or you press Ctrl-C"),
            JSON, RUNS_DIR,
        ),
    ),
    Command(
        "logs", "show the output of a sweep's trials", "experiments.sweep.status.logs:logs",
        (
            SWEEP,
            argument(
                "trial", nargs="?", metavar="TRIAL", completes="trial",
                help="id of the trial or its beginning, or KEY=VALUE; default: the failed trials",
            ),
            argument("--attempt", type=int, metavar="N", help="number of the attempt; default: the newest"),
            argument("--rank", type=int, default=0, metavar="K", help="rank, for a trial on several devices (0)"),
            argument("--follow", action="store_true", help="keep printing until the trial ends or you press Ctrl-C"),
            argument("--workers", action="store_true", help="show the output of the workers instead of the trials"),
            RUNS_DIR,
        ),
    ),
    Command(
        "cancel", "end a sweep or some of its trials, after a checkpoint", "experiments.cli.sweep:cancel",
        (
            SWEEP,
            argument(
                "trials", nargs="*", metavar="TRIAL|STATE|KEY=VALUE", completes="open_trial",
                help="only these trials: an id, pending, optimizer=sgd",
            ),
            TRUST, RUNS_DIR,
        ),
    ),
    Command(
        "sync", "copy runs to MLflow and the other trackers", "experiments.cli.tracking:sync",
        (
            argument("runs", nargs="*", metavar="RUN", completes="run", help="default: all runs in the runs folder"),
            TRUST_CODE, TRUST, RUNS_DIR,
        ),
    ),
    Command(
        "ui", "open the MLflow UI on the runs", "experiments.cli.tracking:ui",
        (
            argument("--store", metavar="URI|FILE", help="default: the SQLite file in the runs folder"),
            argument("--experiment", default="lathe", metavar="NAME", help="MLflow experiment to open (lathe)"),
            argument("--sweep", metavar="NAME", help="open the page of this sweep, in the store that it uses"),
            argument("--port", type=int, help="default: a free port"),
            RUNS_DIR,
        ),
    ),
    Command(
        "ls", "list the runs that match a condition", "experiments.results.search.search:ls",
        (
            argument(
                "condition", nargs="?", metavar="CONDITION", completes="search_key",
                help="such as 'optimizer.lr<0.01 and val/accuracy_top1>0.9'",
            ),
            argument(
                "--sort", metavar="KEY",
                help="metric or key to sort by; -KEY sorts in descending order; default: newest first",
            ),
            JSON, RUNS_DIR,
        ),
    ),
    Command(
        "diff", "compare two runs: configuration, code, data and metrics", "experiments.results.compare.diff:diff",
        (
            *(
                argument(
                    name, metavar=label, completes=("run", "shared_file_by_name"),
                    help="a run, a shared file, or overrides of an experiment in quotes",
                )
                for name, label in (("one", "A"), ("other", "B"))
            ),
            argument(
                "--tolerance", type=float, default=0.0, metavar="X",
                help="relative difference of metrics that counts as equal (0)",
            ),
            JSON, CONFIG_DIR, TRUST, RUNS_DIR,
        ),
    ),
    Command(
        "reproduce", "repeat a run with its original code and compare the results",
        "experiments.results.reproduce.reproduce:reproduce",
        (
            argument(
                "run", metavar="RUN|FILE", completes=("run", "shared_file_by_name"),
                help="folder, id or its beginning, MLflow run id, or a shared file",
            ),
            argument("overrides", nargs="*", metavar="OVERRIDE", help="where to run it: hardware=... parallel=..."),
            argument("--steps", type=int, metavar="N", help="run only the first N steps"),
            argument("--check", metavar="OTHER", help="compare with another existing run; start nothing"),
            argument(
                "--tolerance", type=float, metavar="X", help="relative difference of metrics that counts as equal"
            ),
            argument("--keep-code", action="store_true", help="do not delete the restored code"),
            TRUST_CODE, TRUST, RUNS_DIR,
        ),
    ),
    Command(
        "share", "write a run to one file that others can run and reproduce", "experiments.results.share.share:share",
        (
            argument(
                "run", metavar="RUN", completes="run", help="folder of the run, its id or beginning, or its MLflow run id"
            ),
            argument(
                "-o", "--output", required=True, metavar="FILE", help="such as lenet.yaml, or lenet.tar.gz with --bundle"
            ),
            argument(
                "--bundle", action="store_true", help="write an archive that also holds uncommitted code and the weights"
            ),
            argument("--force", action="store_true", help="overwrite an existing file"),
            RUNS_DIR,
        ),
    ),
    Command(
        "export", "write a run's model as an MLflow model, with safetensors weights",
        "experiments.results.export.export:export",
        (
            RUN,
            argument("-o", "--output", required=True, metavar="DIR", help="a new folder"),
            argument("--register-as", metavar="NAME", help="also register the model in the run's store under this name"),
            TRUST_CODE, TRUST, RUNS_DIR,
        ),
    ),
    Command(
        "predict", "apply a run's model to your images or texts", "experiments.results.predict.predict:predict",
        (
            RUN,
            argument(
                "inputs", nargs="*", metavar="INPUT", completes="image",
                help="image files, folders or patterns; or texts; `-` or none: one input per line of standard input",
            ),
            argument(
                "-o", "--output", metavar="DIR",
                help="folder for files that the model produces, such as masks; files in it are not read as inputs",
            ),
            argument("--json", action="store_true", help="print one JSON object per line"),
            argument(
                "--set", action="append", default=[], dest="changes", metavar="KEY=VALUE",
                help="change how the model predicts, such as evaluator.top_k_shown=3",
            ),
            TRUST, RUNS_DIR,
        ),
    ),
    Command(
        "evaluate", "evaluate a run's model on its own or other data", "experiments.results.evaluate.evaluate:evaluate",
        (
            RUN,
            argument(
                "overrides", nargs="*", metavar="OVERRIDE", completes="override",
                help="what to evaluate with instead: data=..., evaluator=..., parallel=...",
            ),
            argument(
                "--split", choices=["val", "test", "train"], default="test", metavar="SPLIT", help="val, test or train (test)"
            ),
            argument("--checkpoint", metavar="STEP", help="best, last, or a step; default: the one that the run delivers"),
            argument("--name", metavar="NAME", help="of the metrics, evaluation/NAME/...; default: a number"),
            JSON, HERE, CONFIG_DIR, TRUST_CODE, TRUST, RUNS_DIR,
        ),
        OVERRIDES_HELP,
    ),
    Command(
        "report", "write a page, figures and a table of a sweep or of runs", "experiments.results.report.report:report",
        (
            argument(
                "runs", nargs="+", metavar="SWEEP|RUN", completes="run", completes_first="sweep",
                help="one sweep, or any number of runs",
            ),
            argument("-o", "--output", metavar="DIR", help="default: report/ in the sweep's folder, else ./report"),
            RUNS_DIR,
        ),
    ),
    Command(
        "zoo", "measure the experiments, and write the page with their results", "experiments.results.zoo.zoo:zoo",
        (
            argument(
                "words", nargs="*", metavar="NAME|OVERRIDE", completes=("override", "experiment"),
                help="experiments or rows (all); overrides apply to every run",
            ),
            argument("--run", action="store_true", help="measure the rows that have no current measurement"),
            argument("--write", action="store_true", help="write the page from the YAML headers and the records"),
            argument("--check", action="store_true", help="check that the page is up to date"),
            argument("--budget", metavar="TIME", help="time for one run, such as 10m; its number of steps is reduced to fit"),
            argument("--seeds", type=int, metavar="N", help="runs per row (3)"),
            argument("--again", action="store_true", help="also measure rows that have a current measurement"),
            argument("--page", default="docs/zoo.md", metavar="FILE", help="the page; its records are next to it (docs/zoo.md)"),
            CONFIG_DIR, TRUST,
        ),
    ),
    Command(
        "simulate", "predict the speed of data-parallel replicas without the machines",
        "experiments.plan.simulate.command:command", SIMULATE,
    ),
    Command(
        "options", "list groups, their options and keys; explain a key", "experiments.cli.listings:options",
        (
            argument(
                "group", nargs="?", metavar="GROUP[=OPTION]|KEY", completes="option",
                help="a key such as optimizer.lr is explained; default: a list of the groups",
            ),
            CONFIG_DIR,
        ),
    ),
    Command(
        "new", "write a project of your own that works at once", "experiments.cli.project.new:new",
        (argument("folder", metavar="NAME", help="new or empty folder; its Python package gets the same name"),),
    ),
    Command(
        "trust", "let the settings of a project count on this machine", "experiments.cli.project.project_file:trust",
        (argument("folder", nargs="?", default=".", metavar="DIR", completes="folder", help="of the project (.)"),),
    ),
    Command(
        "schema", "write JSON Schema of your YAML files, for your editor", "experiments.cli.listings:schema",
        (argument("folder", nargs="?", default=".lathe/schema", metavar="DIR", help="for the files (.lathe/schema)"), CONFIG_DIR),
    ),
    Command(
        "data", "list data sets: whether their files are present, licence, source; or check one",
        "experiments.cli.listings:data",
        (
            argument("action", nargs="?", metavar="check", choices=["check"], help="read every example and list the faults"),
            OVERRIDES, CONFIG_DIR, TRUST,
        ),
    ),
    Command(
        "cluster", "start a temporary SLURM cluster on this machine", "experiments.cli.local_cluster:cluster", CLUSTER
    ),
    Command(
        "completion", "print the script that makes a shell complete `lathe`", "experiments.cli.completion:print_script",
        (argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish"),),
        SHELL_SETUP,
    ),
)  # fmt: skip
