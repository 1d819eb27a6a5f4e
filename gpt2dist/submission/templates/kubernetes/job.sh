#!/usr/bin/env bash
# {{title}}
# Made by `gpt2dist submit`: each pod runs it. Its exit code tells the Job what to do:
#   0   done                     2   the input is wrong: the job fails, nothing is started again
#   75  stopped, to go on later: started again, and not counted        others  failed: counted, started again
set -uo pipefail
cd {{directory}} || exit 1
{{exports}}

{{command}} &
work=$!
asked=""
trap 'asked=1; kill -TERM "$work"' TERM # Kubernetes tells the first process of a pod only
while kill -0 "$work" 2>/dev/null; do # a signal ends a wait, too
  wait "$work"
done
wait "$work"
code=$?
[ -z "$asked" ] || echo "asked to end, and ended with exit code $code"

{{ending}}
exit "$code"
