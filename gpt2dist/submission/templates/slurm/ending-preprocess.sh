# What is done stays done: started again, a job does what is left. One that is preempted is put back into the queue.
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
