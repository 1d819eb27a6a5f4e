#!/usr/bin/env bash
# {{title}}
# Written by `gpt2dist submit`. To submit it by hand: {{by_hand}}
{{directives}}

{{common}}

{{ending}}

say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
port=$((20000 + job % 20000))
# One task per node, each with a worker process per core. The first node also runs the scheduler and gpt2dist itself.
# shellcheck disable=SC2016
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpu-bind=none --label --kill-on-bad-exit=0 --wait=60 {{container}}\
  bash -c '
    python=$1 host=$2 port=$3
    shift 3
    export DASK_LOGGING__DISTRIBUTED="${DASK_LOGGING__DISTRIBUTED:-warning}"
    work() {
      echo "$SLURM_CPUS_ON_NODE workers"
      "$python" -m dask worker "tcp://$host:$port" --nworkers "$SLURM_CPUS_ON_NODE" --nthreads 1 --memory-limit 0 \
        --no-dashboard --local-directory "${TMPDIR:-/tmp}" --death-timeout 120
    }
    if [ "$SLURM_NODEID" != 0 ]; then
      work
      exit 0 # the scheduler has ended; the first node reports the result
    fi
    "$python" -m dask scheduler --host "$host" --port "$port" --no-dashboard &
    scheduler=$!
    work &
    until (: <>"/dev/tcp/$host/$port") 2>/dev/null; do
      kill -0 "$scheduler" || exit 1
      sleep 1
    done
    "$python" -m gpt2dist "$@" --scheduler "tcp://$host:$port"
    code=$?
    kill "$scheduler"
    wait
    exit "$code"' node {{python}} "$head" "$port" {{arguments}}
ending $?
