"""Runs the workers of a sweep as one SLURM job array."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from launchers.base import PLACEMENT_VARIABLE, REQUEUE, LaunchError, SubmissionUnclearError, WorkerPool, module_command
from launchers.slurm_tasks.errors import explain, find_errors
from launchers.slurm_tasks.output import parse_job, shorten
from launchers.slurm_tasks.queue import INVALID_JOB, NoAnswerError, SlurmQueue

DEFAULT_MAX_WORKERS = 256
"""Sites accept arrays of about 1,000 tasks, and the file system has to start all of them."""
MAX_RESTARTS = 3
"""How often a worker that a signal ended, for example because memory ran out, is requeued."""
INHERITED_VARIABLES = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ",
    "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CUDA_HOME", "CUDA_PATH", "SLURM_CONF",
    "LATHE_*", "NCCL_*", "TORCH_*", "GLOO_*", "UCX_*", "FI_*", "*_proxy", "*_PROXY",
    "BASH_ENV", "BASH_FUNC_m*", "MODULE*", "LMOD_*", "__LMOD_*", "_ModuleTable*", "LOADEDMODULES", "_LMFILES_",
)  # fmt: skip
"""Variables of this shell that workers inherit: search paths, Lathe's own, network settings, those of `module`."""
DROPPED_VARIABLES = (PLACEMENT_VARIABLE,)
FIRST_MODULE = "launchers.seat"
"""What the first version ran as a task; it takes the same arguments."""


class Slurm:
    """Submits the workers of a sweep as one job array. Workers take trials themselves, so no process has to stay behind."""

    is_component = True

    def __init__(
        self, workers: int | None = None, devices_per_trial: int | None = None, trials_per_device: int = 1,
        dry_run: bool = False, python: str | None = None, environment: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """
        Args:
            workers: maximum number of array tasks; null: as many as the trials can use, at most 256.
            devices_per_trial: devices that one trial uses; null: all that the hardware option states.
            trials_per_device: trials that share one device.
            dry_run: show what would be submitted, and submit nothing.
            python: the interpreter on the nodes; null: this one, or python3 in a container.
            environment: names of further variables that workers inherit, for example secrets.
        """
        self.workers, self.devices_per_trial, self.trials_per_device = workers, devices_per_trial, trials_per_device
        self.dry_run, self.python, self.environment = dry_run, python, tuple(environment)

    @cached_property
    def _queue(self) -> SlurmQueue:
        return SlurmQueue(filter_environment(os.environ, self.environment))

    def count_workers(self, pool: WorkerPool) -> int:
        """Return the number of array tasks."""
        return min(pool.max_workers, self.workers or DEFAULT_MAX_WORKERS)

    def describe(self, pool: WorkerPool) -> str:
        """Return the batch script; the same pool always gives the same script."""
        python = self.python or ("python3" if require_settings(pool)["container"] else sys.executable)
        return render_script(pool, self.count_workers(pool), python)

    def submit(self, pool: WorkerPool) -> str:
        """Test whether SLURM accepts the array, then submit it and return the job number.

        Raises:
            LaunchError: names the key at fault.
            SubmissionUnclearError: sbatch did not answer, or printed no job number.
        """
        script = self.describe(pool)
        (pool.folder / "workers").mkdir(exist_ok=True)  # if SLURM cannot open a job's log, it reports nothing
        self._sbatch(pool, script, "--test-only")
        output = self._sbatch(pool, script, "--parsable")
        job = parse_job(output)
        if job is None:
            raise SubmissionUnclearError(
                f"sbatch printed {shorten(output)} and no job number for '{pool.name}', so a job may be there or not; "
                f"`squeue --me -n '{pool.name}'` shows it, `lathe resume` and `lathe cancel` look for it"
            )
        (pool.folder / "workers" / f"{job}.sh").write_text(script, encoding="utf-8")
        return job

    def find_jobs(self, pool: WorkerPool) -> list[str]:
        """Return the numbers of this sweep's jobs that SLURM has.

        Raises:
            LaunchError: SLURM does not answer.
        """
        try:
            return self._queue.find_jobs(pool.name, pool.folder / "workers")
        except NoAnswerError as err:
            raise LaunchError(f"slurm does not say whether '{pool.name}' has a job: {err}; try again later") from err

    def _sbatch(self, pool: WorkerPool, script: str, option: str) -> str:
        try:
            done = self._queue.run_command("sbatch", option, stdin=script)
        except NoAnswerError as err:
            hint = "run it on a login node; `lathe cluster up` starts a cluster on this machine"
            if isinstance(err.__cause__, FileNotFoundError):
                raise LaunchError(f"launcher=slurm finds no sbatch on this machine; {hint}") from err
            is_unclear = option == "--parsable"
            error = SubmissionUnclearError if is_unclear else LaunchError
            raise error(explain(pool, self.count_workers(pool), str(err))) from err
        if done.returncode != 0:
            raise LaunchError(explain(pool, self.count_workers(pool), done.stderr))
        return done.stdout

    def find_lost(self, workers: Sequence[str]) -> dict[str, str]:
        """Return the workers that have ended, with SLURM's state; none while SLURM does not answer."""
        return self._queue.find_lost(workers)

    def count_pending(self, jobs: Sequence[str]) -> int:
        return self._queue.count_pending([job for job in jobs if job.isdecimal()])

    def cancel(self, jobs: Sequence[str]) -> None:
        """
        Raises:
            LaunchError: SLURM does not answer.
        """
        own = [job for job in jobs if job.isdecimal()]
        if not own:
            return
        try:
            done = self._queue.run_command("scancel", *own)
            errors = [line for line in find_errors(done.stderr) if INVALID_JOB not in line.lower()]
            if not errors and done.returncode != 0 and INVALID_JOB not in done.stderr.lower():
                errors = [f"scancel ended with code {done.returncode}"]
        except NoAnswerError as err:
            errors = [str(err)]
        if errors:
            raise LaunchError(
                f"slurm did not cancel {', '.join(own)}: {errors[-1].strip()}; try `scancel {' '.join(own)}`"
            )


def require_settings(pool: WorkerPool) -> Mapping[str, Any]:
    """Return the site's settings, `hardware.slurm`.

    Raises:
        LaunchError: the hardware option has none.
    """
    if pool.slurm is None:
        raise LaunchError(
            "launcher=slurm needs hardware.slurm, and it is null; take hardware=a100_4 or another that has one "
            "(docs/slurm.md shows how to write one for your site)"
        )
    return pool.slurm


def filter_environment(environment: Mapping[str, str], further: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables that workers inherit: none of a surrounding job, of another run or of a login shell."""
    patterns = (*INHERITED_VARIABLES, *further)
    return {
        name: value
        for name, value in environment.items()
        if name not in DROPPED_VARIABLES and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def format_gres(pool: WorkerPool) -> str | None:
    """Return the generic resources of one node.

    GPUs of a type are requested per node: with ``--gpus-per-task`` of a type, tasks see none of them.
    """
    settings = require_settings(pool)
    if settings["gres"] is not None:
        return str(settings["gres"])
    if settings["gpu_type"] is None and pool.device == "cpu":
        return None
    return ":".join(filter(None, ("gpu", settings["gpu_type"], str(pool.devices_per_node))))


def escape_pattern(folder: Path) -> str:
    """Return a folder as a part of a file name in which SLURM replaces ``%A``.

    Raises:
        LaunchError: SLURM cannot write into it.
    """
    if "\\" in str(folder) or not str(folder).isprintable():
        raise LaunchError(
            f"SLURM cannot write its logs to {str(folder)!r}, as the path has a backslash or a line break; choose another "
            "runs_dir or sweep.name"
        )
    return str(folder).replace("%", "%%")


def render_script(pool: WorkerPool, num_workers: int, python: str) -> str:
    """Return the batch script of one array."""
    settings = require_settings(pool)
    ranks_on_node = pool.ranks_per_worker // pool.nodes
    cores = max(1, settings["cpus_per_device"] * pool.devices_per_node // ranks_on_node)
    parameters = _sbatch_parameters(pool, settings, ranks_on_node, cores)
    further = {re.sub("_", "-", name): value or True for name, value in settings["sbatch"].items()}
    _check_lines({**parameters, **further})
    return _make_sbatch_string(
        folder=pool.folder / "workers",
        command=_render_command(pool, cores, python),
        setup=_render_setup(pool),
        map_count=num_workers,
        array_parallelism=num_workers,
        stderr_to_stdout=True,
        use_srun=False,
        **parameters,
        additional_parameters={
            "output": f"{escape_pattern(pool.folder / 'workers')}/%A_%a.txt",
            "requeue": True,
            "signal": f"USR2@{settings['signal_delay_s']}",
            **further,
        },
    )


def _check_lines(parameters: Mapping[str, Any]) -> None:
    """Refuse a line break in an option: what follows it would be a line of the batch script, which a shell runs."""
    for name, value in parameters.items():
        if not f"{name}{value}".isprintable():
            raise LaunchError(
                f"the option {name}={value!r} of sbatch has a line break or a control character; write it on one line"
            )


def _sbatch_parameters(pool: WorkerPool, settings: Mapping[str, Any], ranks_on_node: int, cores: int) -> dict[str, Any]:
    mem_gb = settings["mem_gb_per_device"] * pool.devices_per_node
    return {
        "job_name": pool.name,
        "partition": settings["partition"],
        "account": settings["account"],
        "qos": settings["qos"],
        "constraint": settings["constraint"],
        "gres": format_gres(pool),
        "time": settings["time"],
        "nodes": pool.nodes,
        "ntasks_per_node": ranks_on_node,
        "cpus_per_task": cores,
        "mem": f"{int(mem_gb)}G" if mem_gb == int(mem_gb) else f"{int(mem_gb * 1024)}M",
        "wckey": None,
    }


def _render_setup(pool: WorkerPool) -> list[str]:
    """Return the lines before the command: they make a folder for this start of the worker, then run the site's setup."""
    workers = shlex.quote(str(pool.folder / "workers"))
    code = shlex.quote(os.pathsep.join(map(str, pool.import_path)))
    lines = [
        "task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
        f"worker={workers}/$task.${{SLURM_RESTART_COUNT:-0}}",
        'mkdir -p "$worker"',
        'exec >> "$worker/log.txt" 2>&1',
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONUNBUFFERED=1",
    ]
    site = require_settings(pool)["setup"]
    return [*lines, *(["set -e", *site] if site else [])]


def _render_command(pool: WorkerPool, cores: int, python: str) -> str:
    """Return the lines that start one process per rank, and requeue a worker that stopped while trials were left."""
    settings = require_settings(pool)
    srun = ["srun", f"--cpus-per-task={cores}", "--kill-on-bad-exit=0", "--wait=0"]
    srun += ["--label"] if pool.ranks_per_worker > 1 else []
    srun += [f"--container-image={settings['container']}"] if settings["container"] else []
    task = [
        python,
        "-P",
        *module_command("launchers.slurm_tasks.task" if pool.worker_module else FIRST_MODULE, pool.code),
        "--per-node",
        pool.ranks_per_node,
        "--devices",
        pool.devices_per_node,
    ]
    task += ["--device", pool.device, "--lead-s", settings["signal_delay_s"]]
    task += ["--threads", pool.threads_per_rank] if pool.threads_per_rank else []
    start = shlex.join([*srun, *settings["srun_args"], *map(str, task)])
    end = shlex.join([str(pool.folder), *pool.trust_options])
    return "\n".join(
        [
            'ends=${SLURM_JOB_END_TIME:-$(squeue -h -j "$task" -o %e || true)}',
            "code=0",
            f'{start} --ends "$ends" {end} || code=$?',
            # Only while the job is running: `scontrol requeue` would start a cancelled job again.
            f"killed=$((code > 128 && ${{SLURM_RESTART_COUNT:-0}} < {MAX_RESTARTS}))",
            f"if [ $code = {REQUEUE} ] || [ $killed = 1 ]; then",
            '  if squeue -h -j "$task" -o %T | grep -qx RUNNING; then scontrol requeue "$task"; fi',
            "fi",
            "exit $code",
        ]
    )
