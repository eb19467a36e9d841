#!/bin/bash
# Many workers under Slurm: every task of the array runs the same command on the same study.
#
#   sbatch sweeps/slurm.sh                  four tasks with one GPU each
#   sbatch --array=0-15 sweeps/slurm.sh     more of them, now or later; any may come and go
#
# They need two things in common:
# 1. A database, which hands out the trials. PostgreSQL (pip install "flaxyolo[postgresql]"):
#      createdb studies
#      FLAXYOLO_STORAGE=postgresql://user:password@dbhost/studies
#    or a gRPC server in front of any database, on a node that the tasks reach
#    (pip install "flaxyolo[grpc]"). It asks for no password and encrypts nothing: whoever reaches
#    its port may read and change every study. It is Optuna's run_grpc_proxy_server:
#      python -c "from flaxyolo.crew.databases import serve; serve('sqlite:///studies.db', host='0.0.0.0')"
#      FLAXYOLO_STORAGE=grpc://node1:13000
# 2. A shared folder for --out, where a trial's checkpoint is found by whoever goes on with it.
#
# A task that is preempted, killed or out of time loses no more than the work since the last
# checkpoint: another goes on with its trial, 90 seconds later if that is on another node.
#
#SBATCH --job-name=flaxyolo
#SBATCH --array=0-3
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=flaxyolo-%A-%a.log
set -euo pipefail

: "${FLAXYOLO_STORAGE:?set it to postgresql://user:password@dbhost/studies or grpc://host:13000}"
shared=${FLAXYOLO_SHARED:-$HOME/flaxyolo}

# The URL stays in the variable: the words of a command are seen by everyone on its node.
export FLAXYOLO_STORAGE
# In place of this shell, so that it hears Slurm's SIGTERM and lets go of its trial.
exec python -m flaxyolo.sweep \
  --budget-ms 8 \
  --data "yolo:$shared/data/data.yaml" \
  --storage env:FLAXYOLO_STORAGE \
  --study mine-8ms \
  --out "$shared/runs" \
  --workers 1
