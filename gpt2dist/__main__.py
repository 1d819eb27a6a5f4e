"""`python -m gpt2dist …`, which is what torchrun and deepspeed start."""

import sys

from gpt2dist.cli import main

if __name__ == "__main__":
    sys.exit(main())
