#!/usr/bin/env bash
# preprocess-web: preprocessing in 64 parts
# Made by `gpt2dist submit`. By hand: sbatch /data/web.submission/001/job.sh
#SBATCH --job-name=preprocess-web
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --chdir=/home/me
#SBATCH --output=/data/web.submission/001/job-%A-%a.log
#SBATCH --array=0-63

# What is done stays done: started again, a job does what is left. One that is preempted is put back into the queue.
set -uo pipefail

record=/data/web.submission/001
job=${SLURM_JOB_ID:?start this with sbatch, or inside salloc}
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
say() { echo "$(date '+%F %T') job $job: $*"; }
# What Slurm knows of this job under a name such as JobState.
fact() { scontrol --oneliner show job "$job" | grep -o " $1=[^ ]*" | cut -d= -f2-; }

cd /home/me || exit 1
export NCCL_SOCKET_IFNAME=ib0
export NOTE='it'"'"'s mine'
# Slurm no longer tells srun how many cores sbatch was asked for.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# Whether Slurm preempted this start, not one before it.
preempted() {
  local when
  when=$(fact PreemptTime)
  [[ $when == [0-9]* && ! $when < $(fact StartTime) ]]
}

# Puts the job back into the queue. Slurm then ends this script.
again() {
  say "$*; back into the queue"
  # A requeued job would wait two minutes, unless told otherwise once it is pending.
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

say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
srun --ntasks=1 --cpu-bind=none /home/me/.venv/bin/python -m gpt2dist preprocess 'dumps/*.jsonl' --tokenizer gpt2 --output /data/web --task-index "$SLURM_ARRAY_TASK_ID" --task-count 64
code=$?
if [ "$code" -eq 0 ]; then
  say "done"
elif [ "$(fact JobState)" != RUNNING ]; then
  say "cancelled; what is done is kept"
elif preempted; then
  again "preempted; what is done is kept"
else
  say "failed with exit code $code; what is done is kept. To do what is left: submit it again"
fi
exit "$code"
