"""What tests share. Pytest rewrites no assertion in here."""

from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[2]
BEFORE_0_19_8 = Version(version("deepspeed")) < Version("0.19.8")
"""Whether the installed DeepSpeed is in the older part of the tested range, which differs in what tests name."""
