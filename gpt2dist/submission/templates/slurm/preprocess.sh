#!/usr/bin/env bash
# {{title}}
# Made by `gpt2dist submit`. By hand: {{by_hand}}
{{directives}}

# What is done stays done: started again, a job does what is left. One that is preempted is put back into the queue.
{{common}}

say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
srun --ntasks=1 --cpu-bind=none {{container}}{{python}} -m gpt2dist {{words}}{{part}}
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
