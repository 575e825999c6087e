#!/bin/bash

# Parameters
#SBATCH --array=0-4%5
#SBATCH --cpus-per-task=8
#SBATCH --job-name=lr_batch
#SBATCH --mem=2560M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/lr_batch/workers/%A_%a.txt
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=08:00:00

# setup
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
worker=/runs/lr_batch/workers/$task.${SLURM_RESTART_COUNT:-0}
mkdir -p "$worker"
exec >> "$worker/log.txt" 2>&1
export PYTHONPATH=/runs/lr_batch/code/packages${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

# command
export SUBMITIT_EXECUTOR=slurm
ends=${SLURM_JOB_END_TIME:-$(squeue -h -j "$task" -o %e || true)}
code=0
srun --cpus-per-task=8 --kill-on-bad-exit=0 --wait=0 /opt/lathe/bin/python -P /runs/lr_batch/code/packages/lathe/start.py launchers.slurm_tasks.task --per-node 1 --devices 1 --device cpu --lead-s 180 --threads 8 --ends "$ends" /runs/lr_batch || code=$?
killed=$((code > 128 && ${SLURM_RESTART_COUNT:-0} < 3))
if [ $code = 75 ] || [ $killed = 1 ]; then
  if squeue -h -j "$task" -o %T | grep -qx RUNNING; then scontrol requeue "$task"; fi
fi
exit $code
