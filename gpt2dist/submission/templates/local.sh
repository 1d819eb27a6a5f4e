#!/usr/bin/env bash
# {{title}}
# Written by `gpt2dist submit`. To run it by hand: bash {{script}}
# SIGTERM stops it; finished work is kept, and the next start resumes.
set -euo pipefail
cd {{working_directory}}
{{exports}}
exec {{python}} -m gpt2dist {{launch}}{{arguments}}
