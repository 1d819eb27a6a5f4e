"""What tests share. Pytest rewrites no assertion in here."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
