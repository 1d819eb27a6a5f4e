set -uo pipefail

record={{submission_directory}}
job=${SLURM_JOB_ID:?start this with sbatch, or inside salloc}
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
say() { echo "$(date '+%F %T') job $job: $*"; }
# Print a field of this job, such as JobState.
fact() { scontrol --oneliner show job "$job" | grep -o " $1=[^ ]*" | cut -d= -f2-; }

cd {{working_directory}} || exit 1
{{exports}}
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
  say "it could not be put back; to go on: sbatch $record/{{file}}"
  exit 0
}
