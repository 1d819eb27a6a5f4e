import resource
import sys
from types import SimpleNamespace

import pytest

from gpt2dist.memory import format_bytes, peak_resident_bytes


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6e6, "1 GB"),
        (12_345_678_901, "12.3 GB"),
        (1.234e12, "1.23 TB"),
        (1.234e15, "1,234 TB"),
    ],
)
def test_bytes_for_people(number, text):
    assert format_bytes(number) == text


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_peak_is_in_bytes(monkeypatch, platform, unit):
    """As getrusage(2) of Linux, in KiB, and of macOS, in bytes, say."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3_000_000))
    assert peak_resident_bytes() == 3_000_000 * unit
