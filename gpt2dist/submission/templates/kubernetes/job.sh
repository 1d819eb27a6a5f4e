#!/usr/bin/env bash
# {{title}}
# Made by `gpt2dist submit`: each pod runs it. Its exit code tells the Job what to do:
#   0   done                     2   the input is wrong: the job fails, nothing is started again
#   75  stopped, to go on later: started again, and not counted        others  failed: counted, started again
set -uo pipefail
cd {{directory}} || exit 1
{{exports}}

asked="" code=""
{{stopped}}

{{command}} &
work=$!
trap 'asked=1; kill -TERM "$work"' TERM # Kubernetes tells the first process of a pod only
patience=10
while kill -0 "$work" 2>/dev/null; do
  sleep 1 &
  wait $! # a signal ends it, too
  # Where one launcher was told to stop, those of other pods would wait for it for five minutes more.
  if stopped && [ $((patience--)) -eq 0 ]; then
    kill -KILL "$work"
  fi
done
wait "$work"
code=$?
[ -z "$asked" ] || echo "asked to end, and ended with exit code $code"
if stopped; then
  sleep 15 # the next pod in its place must not meet those that are about to end
  exit 75
fi
exit "$code"
