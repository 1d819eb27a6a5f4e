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


def test_the_peak_is_in_bytes():
    before = peak_resident_bytes()
    block = bytearray(200 << 20)
    assert 100 << 20 < before + (100 << 20) < peak_resident_bytes() < 1 << 40
    del block
