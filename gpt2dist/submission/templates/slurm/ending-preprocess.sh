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
