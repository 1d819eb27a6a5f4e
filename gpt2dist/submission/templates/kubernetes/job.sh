#!/usr/bin/env bash
# {{title}}
# Written by `gpt2dist submit`; each pod runs it. The Job acts on its exit code:
#   0   done                                     2       the input is wrong: the job fails, without retries
#   75  stopped: restarted, not counted          others  failed: restarted and counted
set -uo pipefail
cd {{working_directory}} || exit 1
{{exports}}

asked="" code=""
{{stopped}}

{{command}} &
work=$!
trap 'asked=1; kill -TERM "$work"' TERM # Kubernetes signals only the first process of a pod
patience=10
while kill -0 "$work" 2>/dev/null; do
  sleep 1 &
  wait $! # a signal also ends the wait
  # After one launcher was asked to stop, those of other pods would wait for it for another five minutes.
  if stopped && [ $((patience--)) -eq 0 ]; then
    kill -KILL "$work"
  fi
done
wait "$work"
code=$?
[ -z "$asked" ] || echo "asked to end, and ended with exit code $code"
if stopped; then
  sleep 15 # the pod that replaces this one must not connect to pods that are about to end
  exit 75
fi
exit "$code"
