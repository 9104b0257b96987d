#!/bin/bash
# Runs a command on the first node of a cluster that ray.sbatch has started without one, from the repository's root on a login node:
#   cluster/slurm/on_head.sh JOB ray job submit --working-dir . -- python jobs/adapt.py quickstart --storage /shared/runs
#   cluster/slurm/on_head.sh JOB ray job list
#   cluster/slurm/on_head.sh JOB ray status
# So the dashboard's port, which takes jobs, need not be open to anybody but the head itself.
set -euo pipefail

case ${1:-} in
*[!0-9]* | "") sed -n '2,/^set/ s/^# \?//p' "$0" >&2; exit 2 ;;
esac
job=$1
shift
list=$(squeue --noheader --jobs="$job" --states=RUNNING --format=%N 2>/dev/null || true)
if [ -z "$list" ]; then
    echo "error: no job $job is running (squeue --me)" >&2
    exit 2
fi
head=$(scontrol show hostnames "$list" | head -n 1)
export PATH=$PWD/.venv/bin:$PATH RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265
exec srun --quiet --jobid="$job" --overlap --nodes=1 --ntasks=1 --nodelist="$head" --cpu-bind=none --mem=0 "$@"
