"""The table of commands. A new command is one entry here and one function."""

from __future__ import annotations

from experiments.cli.command import Command, argument
from experiments.cli.table.arguments import (
    CFG,
    CLUSTER,
    CONFIG_DIR,
    DETACH,
    FROM,
    HERE,
    JSON,
    NEW,
    OVERRIDES,
    OVERRIDES_HELP,
    REUSE,
    RUN,
    RUNS_DIR,
    SHELL_SETUP,
    SHELLS,
    SIMULATE,
    TARGET,
    TRUST,
    TRUST_CODE,
)
from experiments.cli.table.manage import MANAGE

COMMANDS = (
    Command(
        "run", "train one experiment", "experiments.cli.run:run",
        (
            argument(
                "overrides", nargs="*", metavar="OVERRIDE", completes=("override", "multirun_key"), help="any number; see below"
            ),
            CFG, FROM, CONFIG_DIR, TRUST,
            argument("-m", "--multirun", action="store_true", help="run a sweep over every key with several values"),
            REUSE, NEW, DETACH, HERE, JSON,
        ),
        OVERRIDES_HELP,
    ),
    Command(
        "plan", "show what a run needs, or why it cannot run", "experiments.cli.plan:plan",
        (
            argument(
                "overrides", nargs="*", metavar="OVERRIDE", completes=("override", "multirun_key", "sweep_file"),
                help="any number; see below; with -m also the name of a sweep",
            ),
            argument("-m", "--multirun", action="store_true", help="plan every trial of a sweep, and estimate its time"),
            CFG, FROM, JSON, CONFIG_DIR, TRUST,
        ),
        OVERRIDES_HELP,
    ),
    Command(
        "check", "plan every experiment and sweep of your configuration folders", "experiments.cli.check:check_all",
        (OVERRIDES, JSON, CONFIG_DIR, TRUST),
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
            DETACH, HERE, JSON, TRUST_CODE, TRUST, RUNS_DIR,
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
            CONFIG_DIR, TRUST, NEW, DETACH,
        ),
        OVERRIDES_HELP,
    ),
    Command(
        "status", "show the progress of a run, a sweep, or all sweeps", "experiments.results.manage.status:status",
        (
            argument(
                "target", nargs="?", metavar="RUN|SWEEP", completes=("sweep", "run"),
                help="folder or name of a sweep, or of a run; default: one line for each sweep",
            ),
            argument("--all", action="store_true", help="show every trial, even of a large sweep"),
            argument("--failed", action="store_true", help="show only the failed trials"),
            argument("--watch", action="store_true", help="update until it ends or you press Ctrl-C"),
            JSON, RUNS_DIR,
        ),
    ),
    Command(
        "show", "show everything about one run", "experiments.results.manage.show:show", (RUN, JSON, RUNS_DIR),
    ),
    Command(
        "logs", "show the output of a run or of a sweep's trials", "experiments.results.manage.logs:logs",
        (
            TARGET,
            argument(
                "trial", nargs="?", metavar="TRIAL", completes="trial",
                help="id of the trial or its beginning, or KEY=VALUE; default: the failed trials",
            ),
            argument("--attempt", type=int, metavar="N", help="number of the attempt; default: the newest"),
            argument("--rank", type=int, default=0, metavar="K", help="rank, for a trial on several devices (0)"),
            argument("-f", "--follow", action="store_true", help="keep printing until it ends or you press Ctrl-C"),
            argument("--workers", action="store_true", help="show the output of the workers instead of the trials"),
            RUNS_DIR,
        ),
    ),
    Command(
        "cancel", "end a run, a sweep or some of its trials, after a checkpoint", "experiments.results.manage.cancel:cancel",
        (
            TARGET,
            argument(
                "trials", nargs="*", metavar="TRIAL|STATE|KEY=VALUE", completes="open_trial",
                help="only these trials: an id, pending, optimizer=sgd",
            ),
            TRUST, RUNS_DIR,
        ),
    ),
    *MANAGE,
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
                "--columns", metavar="KEY,KEY", completes="search_key_list",
                help="show these keys, metrics and tags: name, state, created, lr, val/loss_nats, tags.team",
            ),
            argument("-n", type=int, dest="limit", metavar="N", help="list only the first N; default: all"),
            argument(
                "--sort", metavar="KEY", completes="search_key",
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
            argument(
                "--no-preprocessing", action="store_true",
                help="the model takes arrays: you scale and crop, or look up token ids",
            ),
            argument("--adapter", action="store_true", help="write only the adapter, as PEFT does"),
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
            JSON, CONFIG_DIR,
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
