"""The closed schema of an experiment: every key that is not an argument of some part, with its type and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Part = dict[str, Any]  # a node with `_target_`; the class it names is its schema


@dataclass
class ExperimentSchema:
    """The root of the configuration."""

    name: str | None
    """What the run is called in tables and in the UI; null: made of the chosen model and data."""
    description: str | None
    """A sentence or two in Markdown on why this was run."""
    tags: dict[str, str]
    """The user's own words on the run, set as tags of the MLflow run; `+tags.team=vision` adds one."""
    seed: int
    """Everything random follows from it: initial weights, order of data, dropout, augmentation."""
    max_steps: int | None
    """Length of the training in updates; give this or max_epochs."""
    max_epochs: int | None
    """Length of the training in passes over the training split."""
    batch_size_global: int
    """Examples of one update, over all devices."""
    batch_size_per_device: int | None
    """Examples that one device holds at once; null: its whole share. Smaller means accumulating gradients."""
    batch_size_eval: int
    """Examples that one device evaluates at once; changes memory and speed, not the result."""
    num_data_workers: int
    """Processes that read and decode ahead, for data that is not held in memory."""
    eval_every_steps: int
    """Updates between two evaluations on the validation split."""
    log_every_steps: int
    """Updates between two points of the training curves."""
    system_every_s: float | None
    """Seconds between two looks at cores, memory and GPU of the training process; null: none."""
    grad_clip_norm: float | None
    """Largest global norm of the gradient; null: not clipped."""
    precision: Literal["fp32", "bf16", "fp16"]
    """bf16, fp16: autocast of the forward pass; weights and optimizer stay in fp32. fp16 scales the loss, on GPUs only."""
    determinism: Literal["bitwise", "seeded", "off"]
    """bitwise: every operation in its deterministic form; seeded: all chance follows from the seed; off: torch may time
    algorithms against each other and multiply as TF32 on a GPU. See docs/reproducibility.md."""
    compile: bool
    """Compile the model with torch.compile."""
    channels_last: bool
    """Lay images out in memory pixel by pixel, every channel of a pixel side by side, for which fast convolutions are
    made; a pipeline leaves them as they are. See docs/benchmarks.md."""
    profile: bool
    """Trace a few steps of every rank, and count the model's work by DeepSpeed's profiler, into the run's folder."""
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
    """Parts of the model, by the beginnings of their weights' names, that stay as they are at the start; [] trains all."""
    resume: bool
    """Go on with the latest run of this very configuration instead of starting a new one."""
    runs_dir: str
    """Folder of all run folders and of the store."""
    data_root: str
    """Folder of the data sets."""


@dataclass
class CheckpointSchema:
    """When checkpoints are written and which are kept."""

    every_steps: int
    keep_last: int
    best_metric: str | None
    """A metric of the evaluation such as val/accuracy_top1; null: no best one is kept."""
    best_mode: Literal["max", "min"]


@dataclass
class InitFromSchema:
    """What the model starts with in place of chance."""

    weights: str | None
    """A run, by its id or folder, whose best weights are taken, or a file of safetensors; null: chance."""
    skip: list[str]
    """Parts, by the beginnings of their weights' names, that start by chance all the same: a head for other classes."""


@dataclass
class HardwareSchema:
    """One kind of machine, apart from everything else."""

    device: Literal["auto", "cpu", "cuda"]
    nodes: int
    devices_per_node: int
    cpu_threads: int | None
    """Threads of one process; null: torch's own choice, one per core. Another count changes the last bits of a result."""
    cpu_cores: int | None
    """Cores of a node, which its processes share where device=cpu; null: those of this machine."""
    memory_gb: float | None
    """Memory of one device; null: that of this machine."""
    peak_tflops: float | None
    """Peak of one device at the precision that is mostly used; null: no time is guessed."""
    mfu: float
    """Part of the peak that training is guessed to reach."""
    link_gb_per_s: float | None
    """From one device to another of its node, each way; null: that of PCIe, or of a CPU's memory through gloo."""
    link_latency_us: float | None
    """Of a message within a node."""
    network_gb_per_s: float | None
    """From one device to one of another node, each way, every device by itself; null: 10 Gb/s."""
    network_latency_us: float | None
    """Of a message between nodes."""
    slurm: SlurmSchema | None
    """How SLURM is asked for such machines; null: it is not."""


@dataclass
class SlurmSchema:
    """The words of a SLURM site; null: the site's own default, where nothing else is said."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    """Features of the nodes, such as ``h100`` or ``h100|a100``."""
    gpu_type: str | None
    """Type of the GPUs as the site calls it, such as h100; null: any, or none where device=cpu."""
    gres: str | None
    """Generic resources in full, such as ``gpu:h100:4``; null: made of gpu_type and devices_per_node."""
    cpus_per_device: int
    """Cores of each rank."""
    mem_gb_per_device: float
    """Main memory of each rank."""
    time: str
    """Limit of one worker, as ``hours:minutes:seconds`` or ``days-hours:minutes:seconds``, in quotes."""
    signal_delay_s: int
    """How long before its end a job is told, to save what it has."""
    setup: list[str]
    """Lines of shell to run before, such as ``module load cuda``."""
    container: str | None
    """Image for ``srun --container-image``."""
    srun_args: list[str]
    """Further arguments of srun."""
    sbatch: dict[str, str]
    """Further options of sbatch by name, without the dashes."""


@dataclass
class TrackingSchema:
    """Where MLflow keeps the runs, and when the journal is brought there."""

    store: str | None
    """URI of MLflow's backend; null: the SQLite file mlflow.db in runs_dir."""
    experiment: str
    """Name of the MLflow experiment."""
    sync: Literal["live", "end", "off"]
    """live: in the background while the run trains; end: after it; off: only by `lathe sync`."""
    log_model: bool
    """Log the final model of a finished run, and of a sweep that of its best trial, as an MLflow model."""
    register_as: str | None
    """Name in MLflow's model registry under which that model is a new version; null: none."""


@dataclass
class SweepSchema:
    """A question that takes several trials."""

    name: str | None
    """Folder of the sweep in runs_dir; null: the name of its file."""
    description: str | None
    """A sentence or two in Markdown on why this was asked."""
    base: list[str]
    """Overrides of the experiment that all trials share."""
    space: dict[str, Any]
    """By key of the configuration, what it may be, in Hydra's grammar for sweeps; see docs/sweeps.md."""
    points: list[list[str]]
    """Sets of overrides, a point each; only for the strategy list."""
    strategy: StrategySchema
    pruner: PrunerSchema | None
    """What ends bad trials early; null: nothing."""
    metric: str
    """A metric of the evaluation on the validation split, such as val/accuracy_top1."""
    mode: Literal["max", "min"]
    num_seeds: int
    """Trials of every point, that differ by their seed; strategies see the mean."""
    budget: BudgetSchema
    max_attempts: int
    """Of a trial that is interrupted or killed, before it counts as failed."""
    reuse: bool
    """Take the results of finished trials of other sweeps in runs_dir that have the same id."""


@dataclass
class StrategySchema:
    """How points of the space are chosen."""

    name: Literal["grid", "random", "tpe", "cmaes", "gp", "list"]
    seed: int
    startup_points: int
    """Random points before tpe, cmaes or gp begin to model."""


@dataclass
class PrunerSchema:
    """When trials that do worse than others are ended."""

    name: Literal["asha", "hyperband", "median"]
    first_step: int
    """Steps that every trial is given; then come the rungs."""
    factor: int
    """Of the trials at a rung one in so many goes on to the next, which is so many times as far."""


@dataclass
class BudgetSchema:
    """What a sweep may spend; when the first is spent no trial is begun, and those that run go on. null: no limit."""

    max_points: int | None
    wall_h: float | None
    """Hours since its first submission."""
    device_h: float | None
    """Hours of a device, summed over all attempts; of a GPU where trials run on one."""
