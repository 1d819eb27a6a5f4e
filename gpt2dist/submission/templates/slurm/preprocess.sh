#!/usr/bin/env bash
# {{title}}
# Made by `gpt2dist submit`. By hand: {{by_hand}}
{{directives}}

{{common}}

{{ending}}

say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
srun --ntasks=1 --cpu-bind=none {{container}}{{python}} -m gpt2dist {{words}}{{part}}
ending $?
