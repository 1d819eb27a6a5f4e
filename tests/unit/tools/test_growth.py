"""tools/bench/growth.py, the runner of the growth table, with rows of known growth and rows that fail."""

import importlib.util
import json
import sys

import pytest

KNOWN = """
import os, time
TITLE = "squares"
UNIT = "numbers"
SIZES = (10, 20, 40)

def prepare(size, directory):
    (directory / "made").write_text(str(size))

def measure(size, directory):
    child = os.fork()
    if not child:
        held = bytearray(32 << 20)
        time.sleep(0.3)
        os._exit(0)
    os.waitpid(child, 0)
    return {"squared": float((directory / "made").read_text()) ** 2, "constant": 3, "nothing": 0}
"""


@pytest.fixture
def growth(repository, monkeypatch):
    spec = importlib.util.spec_from_file_location("growth", repository / "tools/bench/growth.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "growth", module)
    monkeypatch.setattr(sys, "path", [*sys.path, str(repository / "tools/bench")])
    spec.loader.exec_module(module)
    return module


def write_rows(directory, **rows):
    directory.mkdir()
    for name, text in rows.items():
        (directory / f"{name}.py").write_text(text)
    return ["--rows", str(directory)]


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_the_exponent_of_a_known_function(growth, power):
    sizes = (10, 100, 1000)
    assert growth.exponent(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)


def test_the_exponent_of_a_straight_line_lies_between_its_constant_and_its_slope(growth):
    assert 0 < growth.exponent((10, 100, 1000), [100 + size for size in (10, 100, 1000)]) < 1


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 0, 0)])
def test_zeros_have_no_exponent(growth, values):
    assert growth.exponent((1, 2, 4), values) is None


def test_a_row_is_measured_at_each_size_in_processes_of_its_own(growth, tmp_path, capsys):
    words = write_rows(tmp_path / "rows", known=KNOWN)
    assert growth.main([*words, "--json", str(tmp_path / "out.json")]) == 0
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["name"] == "known" and result["sizes"] == [10, 20, 40] and not result["error"]
    assert result["figures"]["squared"] == [100, 400, 1600]
    assert result["exponents"]["squared"] == pytest.approx(2)
    assert result["exponents"]["constant"] == pytest.approx(0) and result["exponents"]["nothing"] is None
    assert all(28 < peak < 64 for peak in result["figures"]["peak_mib"])  # of the child, which holds 32 MiB
    assert all(seconds > 0 for seconds in result["figures"]["cpu_s"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "known: squares"
    assert printed[1].split() == ["numbers", "10", "20", "40", "exponent"]
    assert ["squared", "100", "400", "1,600", "2.00"] in [line.split() for line in printed]


def test_a_row_that_fails_is_named_and_the_others_are_measured(growth, tmp_path, capsys):
    fails = KNOWN.replace("return", "raise ValueError('no such figure')\n    return")
    other = KNOWN.replace('"constant"', 'f"constant-{size}"')
    hangs = KNOWN.replace("child = os.fork()", "time.sleep(600)")
    words = write_rows(tmp_path / "rows", a_fails=fails, b_other=other, c_broken="import nothing_here", d=hangs)
    assert growth.main([*words, "--row", "a_fails", "--row", "b_other", "--row", "c_broken"]) == 1
    printed = capsys.readouterr()
    assert "FAILED: measure at 10 ended with 1: ValueError: no such figure" in printed.out
    assert "FAILED: has other figures at other sizes" in printed.out
    assert "FAILED: ModuleNotFoundError" in printed.out
    assert printed.err == "failed: a_fails, b_other, c_broken\n"
    assert growth.main([*words, "--row", "d", "--timeout", "1"]) == 1
    assert "FAILED: measure at 10 took too long" in capsys.readouterr().out


def test_rows_are_listed_and_an_unknown_one_is_named(growth, tmp_path, capsys):
    words = write_rows(tmp_path / "rows", known=KNOWN)
    assert growth.main([*words, "--list"]) == 0
    assert capsys.readouterr().out == f"{'known':24} squares (10, 20, 40 numbers)\n"
    assert growth.main([*words, "--row", "unknown"]) == 2
    assert capsys.readouterr().err == "no row unknown; the rows are known\n"


def test_every_row_of_the_project_has_the_protocol(growth):
    names = sorted(path.stem for path in growth.ROWS.glob("*.py"))
    assert names
    for name in names:
        row = growth.load(growth.ROWS, name)
        assert row.TITLE and row.UNIT and callable(row.measure)
        assert len(row.SIZES) == 3 and sorted(row.SIZES) == list(row.SIZES)
