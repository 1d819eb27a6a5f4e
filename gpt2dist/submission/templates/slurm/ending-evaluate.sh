# A result is written when it is there: started again, an evaluation does what has no result yet. One that is
# preempted is put back into the queue; one that watches a run also near the time limit. What fails is not.
ending() {
  if [ "$(fact JobState)" != RUNNING ]; then
    say "cancelled; what was scored stays"
    exit 0
  elif { [ -n "$asked" ] || preempted; } && { [ "$1" -ne 0 ] || {{endless}}; }; then
    again "stopped; what was scored stays"
  elif [ "$1" -ne 0 ]; then
    say "failed with exit code $1; the reason stands above"
  else
    say "done"
  fi
  exit "$1"
}
