#!/usr/bin/env bash
# {{title}}
# Written by `gpt2dist submit`. To submit it by hand: {{by_hand}}
{{directives}}

{{common}}

# Ask the ranks to stop. If the job is being cancelled, Slurm itself signals them.
asked="" near="the time limit is near"
# shellcheck disable=SC2317  # traps call it
stop() {
  [ -z "$asked" ] && [ "$(fact JobState)" = RUNNING ] || return
  asked=$1
  say "$asked: the job stops"
  until scancel --signal=TERM "$job.0"; do # a signal to srun would end the ranks before they save
    kill -0 "$srun" 2>/dev/null || return
    sleep 1 # the step has not started yet
  done
}

{{ending}}

say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
port=$((20000 + job % 20000))
# One launcher per node. The ranks end together, so once one launcher has ended, the others get a minute.
# shellcheck disable=SC2016
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpu-bind=none --label --kill-on-bad-exit=0 --wait=60 {{container}}\
  bash -c 'PET_NODE_RANK=$SLURM_NODEID exec "$@"' launcher \
  {{python}} -m gpt2dist launch --nnodes "$SLURM_NNODES" --nproc-per-node {{gpus_per_node}} --max-restarts 0 \
  --master-addr "$head" --master-port "$port" {{arguments}} &
srun=$!
trap 'stop SIGTERM' TERM
trap 'stop "$near"' USR1
while kill -0 "$srun" 2>/dev/null; do # a signal also ends a wait
  wait "$srun"
done
wait "$srun"
ending $?
