#!/bin/bash
# Ray on one node of an allocation, until SIGUSR2 comes; ray.sbatch starts it as a step on every node.
#   node.sh head ADDRESS      ADDRESS: of the head
#   node.sh worker ADDRESS
# All ports are pinned, for firewalls; DDP takes one more, any, on the machine of rank 0. The dashboard, which takes jobs, is on the head's loopback alone.
set -uo pipefail

folder=/tmp/ray-$SLURM_JOB_ID-$1$SLURM_PROCID
ports=(--node-manager-port=6380 --object-manager-port=6381 --runtime-env-agent-port=6382 --dashboard-agent-grpc-port=6383
    --dashboard-agent-listen-port=6384 --metrics-export-port=6385 --min-worker-port=20000 --max-worker-port=20999)
role=(--address="$2:6379")
if [ "$1" = head ]; then
    role=(--head --node-ip-address="$2" --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265 --ray-client-server-port=10001)
fi

unset RAY_ADDRESS # which is for drivers
ulimit -n "$(ulimit -Hn)"
# A line a start, not Ray's page of advice.
ray start "${role[@]}" "${ports[@]}" --num-cpus="$SLURM_CPUS_ON_NODE" --temp-dir="$folder" --disable-usage-stats --block >"$folder.log" 2>&1 &
ray_pid=$!
trap 'kill -TERM $ray_pid 2>/dev/null; ended=yes' USR2
trap : TERM USR1 # by which Slurm asks the command, too, to leave: until it has written its checkpoint it needs Ray
ended="" code=0
while kill -0 $ray_pid 2>/dev/null; do
    wait $ray_pid
    code=$?
done
if [ -z "$ended" ]; then tail -n 30 "$folder.log" | sed "s/^/$(hostname): /"; fi
rm -rf "$folder" "$folder.log"
[ -n "$ended" ] || exit "$code"
