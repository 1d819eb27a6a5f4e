"""Which code runs: the git commit of the tree that gpt2dist runs from, and what is not committed."""

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve()


def commit() -> str | None:
    """The commit; None where gpt2dist is installed as a package."""
    return _git("rev-parse", "HEAD")


def uncommitted() -> str:
    """The difference of tracked files from the commit; empty where there is none, or no commit."""
    return _git("diff", "HEAD") or ""


def _git(*words: str) -> str | None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(HERE.parent), *words]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True
        )
        return done.stdout

    try:
        git("ls-files", "--error-unmatch", HERE.name)  # a virtual environment may lie in another repository
        return git(*words).strip()
    except (OSError, subprocess.SubprocessError):
        return None
