"""The options of `gpt2dist check`; tests/distributed/test_fabric.py runs it."""

import pytest

from gpt2dist.cli import main


@pytest.mark.parametrize("option", ["--seconds", "--slow-below", "--timeout"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_numbers_must_be_above_0(capsys, option, value):
    with pytest.raises(SystemExit) as ended:
        main(["check", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: '{value}' is not a number above 0" in capsys.readouterr().err
