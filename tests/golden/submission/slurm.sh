#!/usr/bin/env bash
# gpt2-124m: training on 2 × 8 = 16 ranks (nodes × GPUs)
# Written by `gpt2dist submit`. To submit it by hand: sbatch /home/me/runs/gpt2-124m/submission/001/job.sh
#SBATCH --job-name=gpt2-124m
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --chdir=/home/me
#SBATCH --output=/home/me/runs/gpt2-124m/submission/001/job-%j.log

set -uo pipefail

record=/home/me/runs/gpt2-124m/submission/001
job=${SLURM_JOB_ID:?start this with sbatch, or inside salloc}
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
say() { echo "$(date '+%F %T') job $job: $*"; }
# Print a field of this job, such as JobState.
fact() { scontrol --oneliner show job "$job" | grep -o " $1=[^ ]*" | cut -d= -f2-; }

cd /home/me || exit 1
export NCCL_SOCKET_IFNAME=ib0
export NOTE='it'"'"'s mine'
# srun no longer inherits the number of cores from sbatch.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# Succeed if Slurm preempted this start, and not an earlier one.
preempted() {
  local when
  when=$(fact PreemptTime)
  [[ $when == [0-9]* && ! $when < $(fact StartTime) ]]
}

# Requeue the job. Slurm then ends this script.
again() {
  say "$*; back into the queue"
  # Slurm delays a requeued job by two minutes, which can only be changed once the job is pending.
  # shellcheck disable=SC2016
  setsid --fork bash -c 'for _ in {1..60}; do
      sleep 3
      [ "$(squeue --noheader --jobs="$1" --format=%r)" != BeginTime ] || exec scontrol update JobId="$1" StartTime=now
    done' requeue "$job" </dev/null >/dev/null 2>&1
  trap - TERM USR1
  scontrol requeue "$job" && sleep 60 && exit 0
  say "it could not be put back; to go on: sbatch $record/job.sh"
  exit 0
}

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

# A run that is asked to stop saves, writes stopped.json to its directory and exits with 0. This script then requeues
# the job, and its next start resumes the run. A job that fails is not restarted.
run=/home/me/runs/gpt2-124m
rm -f "$run/stopped.json" # written by an earlier start
ending() {
  if [ -f "$run/stopped.json" ]; then
    [ "$(fact JobState)" = RUNNING ] || { say "cancelled, with everything saved"; exit 0; }
    step=$(sed 's/.*"step": \([0-9]*\).*/\1/' "$run/stopped.json")
    if [ "$asked" = "$near" ] && [ "$step" = "$(cat "$record/stopped-at" 2>/dev/null)" ]; then
      say "no step since the start before this one; submit with a longer --time"
      exit 1
    fi
    echo "$step" >"$record/stopped-at"
    again "stopped at step $step, with everything saved"
  elif [ "$1" -ne 0 ] && [ "$asked" = "$near" ]; then
    say "nothing could be saved before the time limit; submit with a longer --time, or look at $run/logs"
  elif [ "$1" -ne 0 ] && { [ -n "$asked" ] || preempted; }; then
    again "asked to stop before it had begun to train"
  elif [ "$1" -ne 0 ]; then
    say "failed with exit code $1; see the messages above and $run/logs"
  else
    say "done"
  fi
  exit "$1"
}

say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
port=$((20000 + job % 20000))
# One launcher per node. The ranks end together, so once one launcher has ended, the others get a minute.
# shellcheck disable=SC2016
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpu-bind=none --label --kill-on-bad-exit=0 --wait=60 \
  bash -c 'PET_NODE_RANK=$SLURM_NODEID exec "$@"' launcher \
  /home/me/.venv/bin/python -m gpt2dist launch --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 0 \
  --master-addr "$head" --master-port "$port" train /home/me/runs/gpt2-124m/submission/001/config.yaml &
srun=$!
trap 'stop SIGTERM' TERM
trap 'stop "$near"' USR1
while kill -0 "$srun" 2>/dev/null; do # a signal also ends a wait
  wait "$srun"
done
wait "$srun"
ending $?
