#!/usr/bin/env bash
# preprocess-web: preprocessing
# Written by `gpt2dist submit`. To submit it by hand: sbatch /data/web.submission/001/job.sh
#SBATCH --job-name=preprocess-web
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --partition=a100
#SBATCH --account=lab
#SBATCH --time=1-12
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --chdir=/home/me
#SBATCH --output=/data/web.submission/001/job-%j.log
#SBATCH --qos=high

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
srun --ntasks=1 --cpu-bind=none '--container-image=nvcr.io#nvidia/pytorch:25.10-py3' --container-mounts=/data:/data,/home/me:/home/me --container-workdir=/home/me /home/me/.venv/bin/python -m gpt2dist preprocess 'dumps/*.jsonl' --tokenizer gpt2 --output /data/web
ending $?
