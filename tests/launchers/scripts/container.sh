#!/bin/bash

# Parameters
#SBATCH --array=0-0%1
#SBATCH --cpus-per-task=14
#SBATCH --gres=gpu:h100:8
#SBATCH --job-name=lr_batch
#SBATCH --mem=1920G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output='/runs/my sweep/workers/%A_%a.txt'
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@60
#SBATCH --time=08:00:00

# setup
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
worker='/runs/my sweep/workers'/$task.${SLURM_RESTART_COUNT:-0}
mkdir -p "$worker"
exec >> "$worker/log.txt" 2>&1
export PYTHONPATH='/runs/my sweep/code/packages'${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

# command
export SUBMITIT_EXECUTOR=slurm
ends=${SLURM_JOB_END_TIME:-$(squeue -h -j "$task" -o %e || true)}
code=0
srun --cpus-per-task=14 --kill-on-bad-exit=0 --wait=0 --label '--container-image=/images/torch 2.sqsh' --container-mounts=/runs,/data python3 -P '/runs/my sweep/code/packages/lathe/start.py' launchers.slurm_tasks.task --per-node 8 --devices 8 --device cuda --lead-s 60 --ends "$ends" '/runs/my sweep' || code=$?
killed=$((code > 128 && ${SLURM_RESTART_COUNT:-0} < 3))
if [ $code = 75 ] || [ $killed = 1 ]; then
  if squeue -h -j "$task" -o %T | grep -qx RUNNING; then scontrol requeue "$task"; fi
fi
exit $code
