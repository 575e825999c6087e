"""The closed schema of an experiment: every key that is not a component's argument, with its type and meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Part = dict[str, Any]  # a component: a node with `_target_`, whose schema is the constructor of that class


@dataclass
class ExperimentSchema:
    """The root of the configuration. A key with a default is newer than the others: the configuration of an old run lacks it."""

    name: str | None
    """Name of the run in tables and in the UI; null: made from the chosen model and data."""
    description: str | None
    """One or two sentences in Markdown: why you run this."""
    tags: dict[str, str]
    """Your own tags of the MLflow run; `+tags.team=vision` adds one."""
    seed: int
    """Seed of everything random: initial weights, data order, dropout, augmentation."""
    max_steps: int | None
    """Length of the training in updates; set this or max_epochs. 0: only evaluate the initial weights."""
    max_epochs: int | None
    """Length of the training in passes over the training split."""
    batch_size_global: int
    """Examples of one update, over all devices."""
    batch_size_per_device: int | None
    """Examples that one device processes at once; null: all of its examples. A smaller number accumulates gradients."""
    batch_size_eval: int
    """Examples that one device evaluates at once; affects memory and speed, not the result."""
    num_data_workers: int
    """Processes that read and decode examples in advance, for data that is not in memory."""
    eval_every_steps: int
    """Updates between two evaluations on the validation split."""
    log_every_steps: int
    """Updates between two points of the training curves."""
    system_every_s: float | None
    """Seconds between two measurements of the training process's CPU, memory and GPU; null: none."""
    grad_clip_norm: float | None
    """Maximum global norm of the gradient; null: no clipping."""
    precision: Literal["fp32", "bf16", "fp16"]
    """bf16, fp16: autocast in the forward pass; weights and optimizer stay in fp32. fp16 scales the loss and needs a GPU."""
    determinism: Literal["bitwise", "seeded", "off"]
    """bitwise: only deterministic operations; seeded: all random numbers follow from the seed; off: torch may also benchmark
    algorithms and use TF32 on a GPU. See docs/reproducibility.md."""
    compile: bool
    """Compile the model with torch.compile."""
    channels_last: bool
    """Use the channels-last memory format for images, which makes convolutions faster; a pipeline ignores it.
    See docs/benchmarks.md."""
    profile: bool
    """Trace a few steps of every rank, and count the model's FLOPs with DeepSpeed's profiler; written to the run's folder."""
    checkpoint: CheckpointSchema
    model: Part
    data: Part
    objective: Part
    evaluator: Part
    optimizer: Part
    schedule: Part
    parallel: Part
    hardware: HardwareSchema
    launcher: Part
    tracking: TrackingSchema
    init_from: InitFromSchema
    freeze: list[str]
    """Prefixes of the names of weights that are not trained; [] trains all."""
    resume: bool
    """Continue the latest run of the same configuration instead of starting a new one."""
    runs_dir: str
    """Folder of all runs and of the tracking store."""
    data_root: str
    """Folder of the data sets."""
    task: Part = field(default_factory=lambda: {"_target_": "modules.task.supervised.Supervised"})
    """The computation of a step."""
    adapter: Part = field(default_factory=lambda: {"_target_": "modules.adapter.no_adapter.NoAdapter"})
    """New parameters that are trained in place of the weights from `init_from`."""
    callback: dict[str, Part] = field(default_factory=dict)
    """What runs after steps and evaluations, by a name of your choice."""
    gradient: dict[str, Part] = field(default_factory=dict)
    """What changes the gradients before they are clipped, in this order, by a name of your choice."""
    evaluation_sets: dict[str, Part] = field(default_factory=dict)
    """Further data by a name of your choice, evaluated with `data`: their metrics are named ``val/NAME/...``."""
    user: dict[str, Any] = field(default_factory=dict)
    """Keys of your own, for references such as `${user.width}`; the values of your own groups are below them."""
    fast_dev_run: bool = False
    """Try the code: 2 steps, each with an evaluation of 2 batches and a checkpoint. The metrics are no result."""
    overfit_batches: int | None = None
    """Train and evaluate on the first so many batches of the training data only, which a correct model learns by heart;
    null: all data."""
    stop_timeout_s: float = 30.0
    """Seconds from Ctrl-C or another request to stop until every process of the training is gone, whatever its code does."""
    notify: NotifySchema = field(default_factory=lambda: NotifySchema())
    """Notifications of how a run ended."""


@dataclass
class NotifySchema:
    """Notifications that a run ended, failed or stalled."""

    command: str | None = None
    """Run by a shell, with the message in LATHE_NOTIFY_TEXT and as JSON in its input; null: none."""
    webhook: str | None = None
    """An address that gets the message as JSON, as `${oc.env:NAME}` because it is a secret; null: none."""
    events: list[Literal["end", "failure", "stall"]] = field(default_factory=lambda: ["end", "failure", "stall"])
    """Events to notify of."""
    stall_min: float = 30.0
    """Minutes without progress that are a stall."""


@dataclass
class CheckpointSchema:
    """When checkpoints are written and which ones are kept."""

    every_steps: int
    """Updates between two checkpoints."""
    keep_last: int
    """How many of the newest are kept, besides the best one."""
    best_metric: str | None
    """A metric of the evaluation such as val/accuracy_top1: the run delivers its best step; auto: the evaluator's main metric;
    null: its last step."""
    best_mode: Literal["max", "min"]
    """What is better; auto: as the evaluator says, else less of a loss or error and more of others."""


@dataclass
class InitFromSchema:
    """Initial weights from an earlier run or from files."""

    weights: str | dict[str, str] | None
    """A run (id or folder), whose best weights are used, a safetensors file, or a folder with such files as
    `save_pretrained` writes it; null: random weights. A map names one for each part of the model:
    `{reader: RUN, translator: RUN}`."""
    skip: list[str]
    """Prefixes of the names of weights that start at random anyway, such as a head for other classes."""
    prefix: str | None = None
    """Put in front of every name in the files: `model` makes `model.head.bias` of `head.bias`."""
    rename: dict[str, str] = field(default_factory=dict)
    """Beginnings of names in the files, and what replaces them, before the prefix: `{bert: ""}` makes `pooler.bias` of
    `bert.pooler.bias`. A `*` stands for any part of a name and is repeated by a `*` of the replacement."""
    strict: bool = True
    """Every weight must be in the model and in the files; false: the others are listed and stay random or unused."""


@dataclass
class HardwareSchema:
    """One kind of machine."""

    device: Literal["auto", "cpu", "cuda"]
    """Where the model is; auto: a GPU if there is one."""
    nodes: int
    """Number of machines."""
    devices_per_node: int
    """GPUs of a machine that are used; with device=cpu the number of processes."""
    cpu_threads: int | None
    """Threads of one process; null: torch's default, one per core. Another number changes the last bits of a result."""
    cpu_cores: int | None
    """Cores of a node, which its processes share if device=cpu; null: those of this machine."""
    memory_gb: float | None
    """Memory of one device; null: that of this machine."""
    peak_tflops: float | None
    """Peak of one device at the usual precision; null: a default, or a short measurement on this machine."""
    mfu: float
    """Model FLOPs utilisation: the fraction of the peak that training is expected to reach."""
    link_gb_per_s: float | None
    """Bandwidth between two devices of a node, per direction; null: PCIe's, or gloo's on a CPU."""
    link_latency_us: float | None
    """Latency of a message within a node."""
    network_gb_per_s: float | None
    """Bandwidth per device between nodes, per direction; null: 10 Gb/s."""
    network_latency_us: float | None
    """Latency of a message between nodes."""
    slurm: SlurmSchema | None
    """How to request such machines from SLURM; null: no SLURM."""


@dataclass
class SlurmSchema:
    """Options of a SLURM cluster; null means the cluster's default unless the key says otherwise."""

    partition: str | None
    """Name of the partition."""
    account: str | None
    """The account that pays."""
    qos: str | None
    """Name of the quality of service."""
    constraint: str | None
    """Features of the nodes, such as ``h100`` or ``h100|a100``."""
    gpu_type: str | None
    """The cluster's name of the GPU type, such as h100; null: any type, or no GPU if device=cpu."""
    gres: str | None
    """Generic resources in full, such as ``gpu:h100:4``; null: made from gpu_type and devices_per_node."""
    cpus_per_device: int
    """Cores of each rank."""
    mem_gb_per_device: float
    """Main memory of each rank."""
    time: str
    """Time limit of one worker, as ``hours:minutes:seconds`` or ``days-hours:minutes:seconds``, in quotes."""
    signal_delay_s: int
    """How long before its time limit a job gets the signal to write a checkpoint."""
    setup: list[str]
    """Shell commands to run first, such as ``module load cuda``."""
    container: str | None
    """Image for ``srun --container-image``."""
    srun_args: list[str]
    """Further arguments of srun."""
    sbatch: dict[str, str]
    """Further options of sbatch by name, without the dashes."""


@dataclass
class TrackingSchema:
    """Which trackers get the runs, and when the journal is copied to them. The other keys are MLflow's."""

    store: str | None
    """URI of MLflow's backend; null: the SQLite file mlflow.db in runs_dir."""
    experiment: str
    """Name of the MLflow experiment."""
    sync: Literal["live", "end", "off"]
    """live: in the background during training; end: after training; off: only by `lathe sync`."""
    log_model: bool
    """Log the final model of a finished run, or of the best trial of a sweep, as an MLflow model."""
    register_as: str | None
    """Name in MLflow's model registry; that model becomes a new version of it. null: not registered."""
    trackers: dict[str, Part] = field(default_factory=dict)
    """By name; `tracking=[sqlite,tensorboard]` chooses several. {}: only MLflow."""


@dataclass
class SweepSchema:
    """A sweep spec: a base experiment, a search space, a strategy and a budget."""

    name: str | None
    """Folder of the sweep in runs_dir; null: the name of its file."""
    description: str | None
    """One or two sentences in Markdown: why you run this sweep."""
    base: list[str]
    """Overrides of the experiment that all trials share."""
    space: dict[str, Any]
    """The values to try for each key of the configuration, in Hydra's sweep grammar; see docs/sweeps.md."""
    points: list[list[str]]
    """One list of overrides per point; only for strategy=list."""
    strategy: StrategySchema
    pruner: PrunerSchema | None
    """Stops bad trials early; null: no pruning."""
    metric: str
    """A metric of the evaluation on the validation split, such as val/accuracy_top1, at the step that a trial delivers."""
    mode: Literal["max", "min"]
    num_seeds: int
    """Trials per point, with different seeds; strategies use their mean."""
    average_over: list[str]
    """Keys of the space whose values make no points: a point has a trial for each, and its value is the mean, as of data.fold."""
    budget: BudgetSchema
    max_attempts: int
    """Attempts of a trial that is interrupted or killed, before it counts as failed."""
    reuse: bool
    """Reuse the results of finished runs in runs_dir with the same configuration, code, packages and data."""


@dataclass
class StrategySchema:
    """How points of the search space are chosen."""

    name: Literal["grid", "random", "tpe", "cmaes", "gp", "list"]
    seed: int
    startup_points: int
    """Random points before tpe, cmaes or gp use their model."""


@dataclass
class PrunerSchema:
    """When trials that are worse than others are stopped."""

    name: Literal["asha", "hyperband", "median"]
    first_step: int
    """Steps of the first rung; no trial is stopped before it."""
    factor: int
    """One in ``factor`` trials continues to the next rung, which has ``factor`` times as many steps."""


@dataclass
class BudgetSchema:
    """Limits of a sweep. When one is reached, no trial is started, and running trials continue. null: no limit."""

    max_points: int | None
    wall_h: float | None
    """Hours since the first submission."""
    device_h: float | None
    """Device-hours of all attempts; GPU-hours if trials run on GPUs."""
