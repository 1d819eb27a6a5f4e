# A run that is asked to stop saves, writes stopped.json to its directory and exits with 0. This script then requeues
# the job, and its next start resumes the run. A job that fails is not restarted.
run={{run}}
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
