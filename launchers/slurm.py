"""Workers of a sweep as one job array of SLURM: the text that is submitted, and who of them is where."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from launchers.base import LaunchError, WorkerPool
from launchers.slurm_tasks.errors import explain
from launchers.slurm_tasks.queue import NoAnswerError, SlurmQueue

MOST_WORKERS = 256
"""Where nobody says how many: sites take arrays of 1,000 tasks, and the file system has to start them all."""
AGAIN = 75
"""Exit code of a worker that had to leave though there is more to do; EX_TEMPFAIL of sysexits.h."""
MOST_RESTARTS = 3
"""How often a worker that was ended by a signal, say for want of memory, is put back into the queue."""
PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ",
    "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CUDA_HOME", "CUDA_PATH", "SLURM_CONF",
    "LATHE_*", "NCCL_*", "TORCH_*", "GLOO_*", "UCX_*", "FI_*", "*_proxy", "*_PROXY",
    "BASH_ENV", "BASH_FUNC_m*", "MODULE*", "LMOD_*", "__LMOD_*", "_ModuleTable*", "LOADEDMODULES", "_LMFILES_",
)  # fmt: skip
"""What of this shell's environment the workers see: search paths, the house's own, the network's, those of `module`."""
NOT_PASSED_ON = ("LATHE_SEAT",)


class Slurm:
    """Submits the workers of a sweep as one job array; they pull trials, so nothing stays behind to drive them."""

    def __init__(
        self, workers: int | None = None, devices_per_trial: int | None = None, trials_per_device: int = 1,
        dry: bool = False, python: str | None = None, environment: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """
        Args:
            workers: most tasks of the array; null: as many as trials are of use to, up to 256.
            devices_per_trial: devices that one trial takes; null: all that hardware states.
            trials_per_device: trials side by side on each device.
            dry: show what would be submitted, and submit nothing.
            python: the interpreter on the nodes; null: this one, or python3 in a container.
            environment: variables that workers see besides those that every worker does, secrets among them.
        """
        self.workers, self.devices_per_trial, self.trials_per_device = workers, devices_per_trial, trials_per_device
        self.dry, self.python, self.environment = dry, python, tuple(environment)
        self._watch = SlurmQueue(environment_of(os.environ, self.environment))

    def tasks(self, pool: WorkerPool) -> int:
        """How many workers are asked for."""
        return min(pool.workers, self.workers or MOST_WORKERS)

    def describe(self, pool: WorkerPool) -> str:
        """The batch script, which is the same for the same pool."""
        python = self.python or ("python3" if words_of(pool)["container"] else sys.executable)
        return script(pool, self.tasks(pool), python)

    def submit(self, pool: WorkerPool) -> str:
        """Ask whether SLURM would take the array, then submit it; the number of the job.

        Raises:
            LaunchError: with the key at fault.
        """
        text = self.describe(pool)
        (pool.folder / "workers").mkdir(exist_ok=True)  # where SLURM cannot open a job's log, it says nothing anywhere
        self._sbatch(pool, text, "--test-only")
        job = self._sbatch(pool, text, "--parsable").strip().partition(";")[0]
        (pool.folder / "workers" / f"{job}.sh").write_text(text)
        return job

    def _sbatch(self, pool: WorkerPool, text: str, how: str) -> str:
        try:
            done = self._watch.ask("sbatch", how, told=text)
        except NoAnswerError as err:
            way_out = (
                "run it where `sbatch` is there, on a login node; `lathe rehearse up` starts a cluster on this machine"
            )
            if isinstance(err.__cause__, FileNotFoundError):
                raise LaunchError(f"launcher=slurm finds no sbatch on this machine; {way_out}") from err
            raise LaunchError(explain(pool, self.tasks(pool), str(err))) from err
        if done.returncode != 0:
            raise LaunchError(explain(pool, self.tasks(pool), done.stderr))
        return done.stdout

    def lost(self, workers: Sequence[str]) -> dict[str, str]:
        """Of these workers those that are gone, by the state that SLURM gives; nobody while it does not answer."""
        return self._watch.lost(workers)

    def waiting(self, jobs: Sequence[str]) -> int:
        return self._watch.waiting([job for job in jobs if job.isdecimal()])

    def cancel(self, jobs: Sequence[str]) -> None:
        """
        Raises:
            LaunchError: SLURM does not answer.
        """
        own = [job for job in jobs if job.isdecimal()]
        if not own:
            return
        try:
            said = self._watch.ask("scancel", *own).stderr
        except NoAnswerError as err:
            said = str(err)
        faults = [line for line in said.splitlines() if line.strip() and "invalid job id" not in line.lower()]
        if faults:
            raise LaunchError(
                f"slurm did not cancel {', '.join(own)}: {faults[-1].strip()}; try `scancel {' '.join(own)}`"
            )


def words_of(pool: WorkerPool) -> Mapping[str, Any]:
    """The site's words.

    Raises:
        LaunchError: the hardware has none.
    """
    if pool.slurm is None:
        raise LaunchError(
            "launcher=slurm needs hardware.slurm, and it is null; take hardware=a100_4 or another that has one "
            "(docs/slurm.md shows how to write your site's)"
        )
    return pool.slurm


def environment_of(environment: Mapping[str, str], further: Sequence[str] = ()) -> dict[str, str]:
    """What of an environment the workers are given: nothing of a surrounding job, of another run or of a login shell."""
    patterns = (*PASSED_ON, *further)
    return {
        name: value
        for name, value in environment.items()
        if name not in NOT_PASSED_ON and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def gres_of(pool: WorkerPool) -> str | None:
    """Generic resources of one node; typed GPUs are asked for by node, as ``--gpus-per-task`` of a type shows none of them."""
    words = words_of(pool)
    if words["gres"] is not None:
        return str(words["gres"])
    if words["gpu_type"] is None and pool.device == "cpu":
        return None
    return ":".join(filter(None, ("gpu", words["gpu_type"], str(pool.devices_per_node))))


def script(pool: WorkerPool, workers: int, python: str) -> str:
    """The batch script of one array, a pure function."""
    words = words_of(pool)
    ranks_on_node = pool.ranks // pool.nodes
    cores = max(1, words["cpus_per_device"] * pool.devices_per_node // ranks_on_node)
    further = {re.sub("_", "-", name): value or True for name, value in words["sbatch"].items()}
    return _make_sbatch_string(
        folder=pool.folder / "workers",
        command=_command(pool, cores, python),
        setup=_setup(pool),
        map_count=workers,
        array_parallelism=workers,
        stderr_to_stdout=True,
        use_srun=False,
        **_parameters(pool, words, ranks_on_node, cores),
        additional_parameters={
            "output": pool.folder / "workers" / "%A_%a.txt",
            "requeue": True,
            "signal": f"USR2@{words['lead_s']}",
            **further,
        },
    )


def _parameters(pool: WorkerPool, words: Mapping[str, Any], ranks_on_node: int, cores: int) -> dict[str, Any]:
    mem_gb = words["mem_gb_per_device"] * pool.devices_per_node
    return {
        "job_name": pool.name,
        "partition": words["partition"],
        "account": words["account"],
        "qos": words["qos"],
        "constraint": words["constraint"],
        "gres": gres_of(pool),
        "time": words["time"],
        "nodes": pool.nodes,
        "ntasks_per_node": ranks_on_node,
        "cpus_per_task": cores,
        "mem": f"{int(mem_gb)}G" if mem_gb == int(mem_gb) else f"{int(mem_gb * 1024)}M",
        "wckey": None,
    }


def _setup(pool: WorkerPool) -> list[str]:
    """Lines before the command: a folder for this start of the worker, and the site's own."""
    workers, code = shlex.quote(str(pool.folder / "workers")), shlex.quote(str(pool.code))
    lines = [
        "task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
        f"worker={workers}/$task.${{SLURM_RESTART_COUNT:-0}}",
        'mkdir -p "$worker"',
        'exec >> "$worker/log.txt" 2>&1',
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONUNBUFFERED=1",
    ]
    site = words_of(pool)["setup"]
    return [*lines, *(["set -e", *site] if site else [])]


def _command(pool: WorkerPool, cores: int, python: str) -> str:
    """Shell that starts a process a rank, and puts the worker back into the queue where it had to leave early."""
    words = words_of(pool)
    srun = ["srun", f"--cpus-per-task={cores}", "--kill-on-bad-exit=0", "--wait=0"]
    srun += ["--label"] if pool.ranks > 1 else []
    srun += [f"--container-image={words['container']}"] if words["container"] else []
    seat = [
        python,
        "-P",
        "-m",
        "launchers.slurm_tasks.task",
        "--per-node",
        pool.ranks_per_node,
        "--devices",
        pool.devices_per_node,
    ]
    seat += ["--device", pool.device, "--lead-s", words["lead_s"]]
    seat += ["--threads", pool.threads_per_rank] if pool.threads_per_rank else []
    start = shlex.join([*srun, *words["srun_args"], *map(str, seat)])
    return "\n".join(
        [
            'ends=${SLURM_JOB_END_TIME:-$(squeue -h -j "$task" -o %e || true)}',
            "code=0",
            f'{start} --ends "$ends" {shlex.quote(str(pool.folder))} || code=$?',
            # Not one that is cancelled or requeued already: `scontrol requeue` would bring the former back.
            f"killed=$((code > 128 && ${{SLURM_RESTART_COUNT:-0}} < {MOST_RESTARTS}))",
            f"if [ $code = {AGAIN} ] || [ $killed = 1 ]; then",
            '  if [ "$(squeue -h -j "$task" -o %T)" = RUNNING ]; then scontrol requeue "$task"; fi',
            "fi",
            "exit $code",
        ]
    )
