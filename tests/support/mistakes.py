"""What the preflight says of a run file, taken apart for tests."""

from pathlib import Path

import pytest

from gpt2dist.errors import UserError
from gpt2dist.preflight import resolve


def refusal(path: Path, overrides: list[str], world_size: int = 1) -> UserError:
    with pytest.raises(UserError) as raised:
        resolve(path, overrides, world_size)
    return raised.value


def mistakes(path: Path, overrides: list[str], world_size: int = 1) -> list[str]:
    head, *lines = str(refusal(path, overrides, world_size)).split("\n  ")
    assert head == f"{path}: {len(lines)} mistake{'s' if len(lines) > 1 else ''} in the configuration"
    return lines
