#!/usr/bin/env bash
# preprocess-web: preprocessing by Dask on 4 nodes
# Written by `gpt2dist submit`. To submit it by hand: sbatch /data/web.submission/001/job.sh
#SBATCH --job-name=preprocess-web
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --chdir=/home/me
#SBATCH --output=/data/web.submission/001/job-%j.log

set -uo pipefail

record=/data/web.submission/001
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

# Finished work is kept, and the next start does the rest. A preempted job is requeued.
ending() {
  if [ "$1" -eq 0 ]; then
    say "done"
  elif [ "$(fact JobState)" != RUNNING ]; then
    say "cancelled; what is done is kept"
  elif preempted; then
    again "preempted; what is done is kept"
  else
    say "failed with exit code $1; what is done is kept. To do what is left: submit it again"
  fi
  exit "$1"
}

say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
port=$((20000 + job % 20000))
# One task per node, each with a worker process per core. The first node also runs the scheduler and gpt2dist itself.
# shellcheck disable=SC2016
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpu-bind=none --label --kill-on-bad-exit=0 --wait=60 \
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
    exit "$code"' node /home/me/.venv/bin/python "$head" "$port" preprocess 'dumps/*.jsonl' --tokenizer gpt2 --output /data/web
ending $?
