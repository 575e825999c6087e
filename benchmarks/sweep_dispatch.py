"""Trivial trials on a rehearsal cluster, against what else puts many jobs into SLURM: `python -m benchmarks.sweep_dispatch`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from launchers.rehearsal import Rehearsal
from launchers.rehearsal_conf import Spec

BUDGET_CPU_S = 10.0
"""For 100 trials, of all processes."""
GROUPS = Path("/sys/fs/cgroup/cpuacct")
PATIENCE_S = 600
LATHE = [sys.executable, "-P", "-m", "experiments.cli"]
OURS = [
    "run",
    "-m",
    "model=softmax",
    "data=digits",
    "max_steps=1",
    "tracking=off",
    "launcher=slurm",
    "hardware=rehearsal",
]
MAP_ARRAY = """
import sys
import submitit
executor = submitit.AutoExecutor(folder="jobs")
executor.update_parameters(timeout_min=5, mem_gb=1, cpus_per_task=1, slurm_array_parallelism=256)
jobs = executor.map_array(lambda number: open(f"out-{number}", "w").close(), range(int(sys.argv[1])))
[job.result() for job in jobs]
"""
HYDRA = """
import hydra
@hydra.main(config_path=None, config_name=None, version_base=None)
def app(config):
    open(f"{hydra.utils.get_original_cwd()}/out-{config.number}", "w").close()
app()
"""


def ours(count: int, folder: Path) -> None:
    """Real trials of one step; two workers, as many as this machine has cores."""
    _run([*LATHE, *OURS, "launcher.workers=2", f"runs_dir={folder}", f"seed=range({count})"], folder)


def raw_array(count: int, folder: Path) -> None:
    """One sbatch, one srun a task."""
    text = "#!/bin/bash\nsrun touch out-$SLURM_ARRAY_TASK_ID\n"
    (folder / "job.sh").write_text(text)
    _run(["sbatch", "--wait", "--mem=1G", "-o", "/dev/null", f"--array=0-{count - 1}", "job.sh"], folder)


def map_array(count: int, folder: Path) -> None:
    """submitit's own."""
    _run([sys.executable, "-c", MAP_ARRAY, str(count)], folder)


def hydra(count: int, folder: Path) -> None:
    """Hydra's launcher on submitit."""
    (folder / "app.py").write_text(HYDRA)
    words = ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"]
    numbers = ",".join(map(str, range(count)))
    _run([sys.executable, "app.py", *words, f"+number={numbers}"], folder)


PEERS: dict[str, Callable[[int, Path], None]] = {
    "lathe sweep": ours, "raw array + srun": raw_array, "submitit map_array": map_array, "hydra + submitit": hydra,
}  # fmt: skip


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)[:200]} ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
        )


@contextmanager
def counted() -> Iterator[Callable[[], float]]:
    """CPU-seconds of this process and all that it starts; of the whole machine where there is no cgroup to ask."""
    group = GROUPS / f"lathe-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        print("no cgroup can be made here: CPU-seconds are those of the whole machine")
        tick = os.sysconf("SC_CLK_TCK")
        yield lambda: sum(map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:4])) / tick
        return
    try:
        yield lambda: int((group / "cpuacct.usage").read_text()) / 1e9
    finally:
        (GROUPS / "cgroup.procs").write_text(str(os.getpid()))


def main() -> int:
    """Print a row for each peer and size; 1 where ours is over its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="300 trials too, which takes minutes")
    sizes = [20, 100, *([300] if parser.parse_args().all else [])]
    is_over = False
    with counted() as cpu_s, tempfile.TemporaryDirectory(prefix="lathe-", dir="/dev/shm") as place:
        cluster = Rehearsal(Path(place) / "cluster")
        cluster.up(Spec())
        os.environ.update(cluster.environment())
        try:
            print(f"{'':20} {'trials':>6} {'CPU-s':>7} {'per trial':>9} {'wall s':>7}")
            for count in sizes:
                for name, dispatch in PEERS.items():
                    folder = Path(place) / f"{dispatch.__name__}-{count}"
                    folder.mkdir()
                    before, begun = cpu_s(), time.perf_counter()
                    dispatch(count, folder)
                    wall_s = time.perf_counter() - begun
                    time.sleep(2)  # what the scheduler still does for it
                    spent_s = cpu_s() - before
                    print(f"{name:20} {count:6} {spent_s:7.1f} {spent_s / count:9.3f} {wall_s:7.1f}", flush=True)
                    is_over |= dispatch is ours and count == 100 and spent_s > BUDGET_CPU_S
        finally:
            cluster.down()
    print(f"budget: {BUDGET_CPU_S} CPU-seconds for 100 trials: {'missed' if is_over else 'kept'}")
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
