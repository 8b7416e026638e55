#!/bin/bash
# Written by `nas-proxy cluster slurm`. Queued again, it goes on where it was.
#SBATCH --job-name=@@study_name
#SBATCH --nodes=@@num_nodes
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@@num_cpus
@@gpu_options#SBATCH --time=@@time_limit
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail

export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
# Whoever reaches Ray's port may run programs as you. So the port takes this job's token alone.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address_of() {
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" \
        bash -c 'getent ahostsv4 "$(hostname)" | awk "{ print \$1; exit }"'
}
head=${nodes[0]}
head_address=$(address_of "$head")
port=$((20000 + SLURM_JOB_ID % 20000))

# A node that was cut off for a while has to start anew, and so it is started in a loop.
start_node() { # host, address, further options of `ray start`
    local host=$1 address=$2
    shift 2
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" bash -c '
        while true; do ray start --block "$@" || true; sleep 5; done' node \
        --node-ip-address="$address" --num-cpus=@@num_cpus --num-gpus=@@num_gpus \
        --disable-usage-stats "$@" >>"ray-$SLURM_JOB_ID-$host.log" 2>&1 &
}

start_node "$head" "$head_address" --head --port="$port" --include-dashboard=false
until srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray status --address="$head_address:$port" >/dev/null 2>&1; do sleep 2; done
for host in "${nodes[@]:1}"; do
    start_node "$host" "$(address_of "$host")" --address="$head_address:$port"
done

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    nas-proxy run @@arguments search.executor=ray "search.ray.address=$head_address:$port" &
driver=$!

# Before the time is over: the study stops in good order, and the job is queued again.
queue_again() {
    kill -TERM "$driver" 2>/dev/null || true
    wait "$driver" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap queue_again TERM

status=0
wait "$driver" || status=$?
jobs -p | xargs -r kill 2>/dev/null || true
exit "$status"
