"""Entry point of `python -m gpt2dist`, which torchrun and deepspeed start."""

import sys

if __name__ == "__main__":
    try:
        from gpt2dist.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # while modules are imported
        from gpt2dist.terminal import say

        say("gpt2dist: interrupted")
        sys.exit(130)
