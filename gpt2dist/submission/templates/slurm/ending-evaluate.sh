# Each result is written as soon as it is known, and the next start does the rest. A preempted evaluation is requeued,
# and so is one that watches a run, near the time limit. A job that fails is not restarted.
ending() {
  if [ "$(fact JobState)" != RUNNING ]; then
    say "cancelled; what was scored stays"
    exit 0
  elif { [ -n "$asked" ] || preempted; } && { [ "$1" -ne 0 ] || {{endless}}; }; then
    again "stopped; what was scored stays"
  elif [ "$1" -ne 0 ]; then
    say "failed with exit code $1; see the messages above"
  else
    say "done"
  fi
  exit "$1"
}
