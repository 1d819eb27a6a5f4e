"""Entry point of `python -m gpt2dist`, which torchrun and deepspeed start."""

import sys

from gpt2dist.cli import main

if __name__ == "__main__":
    sys.exit(main())
