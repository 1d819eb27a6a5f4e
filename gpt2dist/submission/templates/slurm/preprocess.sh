#!/usr/bin/env bash
# {{title}}
# Written by `gpt2dist submit`. To submit it by hand: {{by_hand}}
{{directives}}

{{common}}

{{ending}}

say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
srun --ntasks=1 --cpu-bind=none {{container}}{{python}} -m gpt2dist {{arguments}}{{part}}
ending $?
