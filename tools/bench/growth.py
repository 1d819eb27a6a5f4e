"""Measure how the costs of gpt2dist grow: CPU time, memory and counts, each at three sizes.

    python tools/bench/growth.py                      all rows
    python tools/bench/growth.py --list               the names of the rows
    python tools/bench/growth.py --row blend --row seek --json growth.json

Each module in `growth_rows/` is a row: a piece of work whose size can be chosen. It has

    TITLE = "start of a blend"
    UNIT = "datasets"                                           what the sizes count
    SIZES = (2, 50, 500)
    def prepare(size: int, directory: Path) -> None             optional: writes files; is not measured
    def measure(size: int, directory: Path) -> dict[str, float]     the work; returns counts of its own, or {}

`measure` runs once in a process of its own. The runner adds "cpu_s", the CPU seconds of `measure` in this process
and in those that it starts and waits for, and "peak_mib", by how much the memory of all these processes grew
during it. Imports at the top of a row's module are not measured. An exponent e means that a figure grows as
size^e: 0 is constant, 1 linear, 2 quadratic. It is the slope of a straight line through the logarithms.
It runs on Linux only.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = Path(__file__).resolve().parent / "growth_rows"
SAMPLED_EVERY = 0.02
"""Seconds between two looks at the memory of the processes."""
SAMPLING_SHARE = 0.5
"""Largest share of the time that these looks may take."""
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Result:
    """What a row measured.

    Attributes:
        name: Name of the row's module.
        title: What is measured.
        unit: What the sizes count.
        sizes: The sizes.
        figures: Values of each measured figure, one for each size.
        error: Why there are no figures; empty if there are.
    """

    name: str
    title: str
    unit: str
    sizes: tuple[int, ...]
    figures: dict[str, list[float]]
    error: str = ""

    @property
    def exponents(self) -> dict[str, float | None]:
        """The exponent of each figure's growth."""
        return {name: exponent(self.sizes, values) for name, values in self.figures.items()}


class RowError(Exception):
    """A row could not be measured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the rows; return 1 if one of them failed, and 2 if there is no row of a given name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", metavar="NAME", help="measure this row; may be repeated")
    parser.add_argument("--list", action="store_true", help="list the rows and their sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--directory", type=Path, help="disk to write to (default: the temporary directory)")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="for each size")
    parser.add_argument("--rows", type=Path, default=ROWS, help=argparse.SUPPRESS)
    # The process that measures one size: what to do, the size, the row's directory, the file of the result.
    parser.add_argument("--process", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    sys.path.append(str(REPOSITORY))  # rows may use tests.support
    names = sorted(path.stem for path in args.rows.glob("*.py"))
    unknown = set(args.row or ()) - set(names)
    if unknown:
        print(f"no row {', '.join(sorted(unknown))}; the rows are {', '.join(names)}", file=sys.stderr)
        return 2
    if args.process:
        work, size, directory, output = args.process
        run_process(load(args.rows, args.row[0]), work, int(size), Path(directory), Path(output))
        return 0
    results = []
    for name in args.row or names:
        if args.list:
            row = load(args.rows, name)
            print(f"{name:24} {row.TITLE} ({', '.join(f'{size:,}' for size in row.SIZES)} {row.UNIT})")
            continue
        results.append(measured(args.rows, name, args.directory, args.timeout))
        print(table(results[-1]), flush=True)
    if args.json:
        content = [dataclasses.asdict(result) | {"exponents": result.exponents} for result in results]
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    failed = [result.name for result in results if result.error]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def load(rows: Path, name: str) -> ModuleType:
    """Import the module of a row."""
    spec = importlib.util.spec_from_file_location(name, rows / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(rows: Path, name: str, place: Path | None, timeout: float) -> Result:
    """Measure a row at each of its sizes.

    Args:
        rows: Directory of the rows.
        name: Name of the row.
        place: Directory for the row's files; None for the temporary directory of the system.
        timeout: Seconds after which a process is ended.
    """
    row, figures = None, []
    try:
        row = load(rows, name)
        for size in row.SIZES:
            with tempfile.TemporaryDirectory(prefix="growth-", dir=place) as home:
                work = Path(home, "row")
                work.mkdir()
                if hasattr(row, "prepare"):
                    in_process(rows, name, "prepare", size, work, timeout)
                figures.append(in_process(rows, name, "measure", size, work, timeout))
        if len({frozenset(each) for each in figures}) > 1:
            raise RowError("has other figures at other sizes")
    except Exception as error:
        text = str(error) if isinstance(error, RowError) else f"{type(error).__name__}: {error}"
        title, unit, sizes = (getattr(row, key, "") for key in ("TITLE", "UNIT", "SIZES"))
        return Result(name, title or name, unit, tuple(sizes), {}, text)
    together = {key: [each[key] for each in figures] for key in figures[0]}
    return Result(name, row.TITLE, row.UNIT, tuple(row.SIZES), together)


def in_process(rows: Path, name: str, work: str, size: int, directory: Path, timeout: float) -> dict[str, float]:
    """Call `prepare` or `measure` of a row in a new process, and return its figures.

    Raises:
        RowError: The process failed, or took longer than `timeout` seconds.
    """
    output = directory.with_name(f"{work}.json")
    command = [sys.executable, __file__, "--rows", str(rows), "--row", name]
    command += ["--process", work, str(size), str(directory), str(output)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            peak = watch(process, output, time.monotonic() + timeout)
        finally:
            end_session(process)
        if process.returncode:
            log.seek(0)
            lines = [line for line in log.read().splitlines() if line.strip()] or [""]
            reason = "took too long" if peak is None else f"ended with {process.returncode}: {lines[-1]}"
            raise RowError(f"{work} at {size:,} {reason}")
    figures = json.loads(output.read_text())
    if work == "measure":  # a process knows its exact peak; of several together, only samples are known
        together = ((peak or 0) - figures.pop("shared_base")) / MIB
        figures["peak_mib"] = max(figures["peak_mib"], together)
    return figures


def watch(process: subprocess.Popen[Any], begun: Path, deadline: float) -> float | None:
    """Wait for a process, and return the peak of its memory and that of its descendants in bytes.

    Args:
        process: The process, the first of its session.
        begun: File that exists from the moment when the measured work begins.
        deadline: `time.monotonic()` after which None is returned, while the process still runs.
    """
    peak = 0.0
    pause = SAMPLED_EVERY
    while True:
        try:
            process.wait(pause)
            return peak
        except subprocess.TimeoutExpired:
            began = time.monotonic()
        if began > deadline:
            return None
        if begun.exists():
            peak = max(peak, sum(map(memory, session(process.pid))))
        pause = max(SAMPLED_EVERY, (time.monotonic() - began) / SAMPLING_SHARE)


def session(leader: int) -> list[int]:
    """Return the process ids of a session, which a process and its descendants form unless they leave it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found.append(int(path.parent.name))
    return found


def memory(process: int) -> int:
    """Return the memory of a process in bytes, in which a page that n processes share counts as 1/n."""
    return 1024 * sum(_kib(Path(f"/proc/{process}/smaps_rollup"), "Pss:"))


def end_session(process: subprocess.Popen[Any]) -> None:
    """End what is left of a session."""
    for each in session(process.pid):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def run_process(row: ModuleType, work: str, size: int, directory: Path, output: Path) -> None:
    """Call `prepare` or `measure`, and write what it returned and cost to a file."""
    if work == "prepare":
        row.prepare(size, directory)
        output.write_text("{}")
        return
    forget_peak()
    base, _ = own_memory()
    shared_base = memory(os.getpid())
    output.write_text("")  # `watch` looks at the memory from now on
    began = cpu_seconds()
    counts = row.measure(size, directory)
    seconds = cpu_seconds() - began
    _, peak = own_memory()
    costs = {"cpu_s": seconds, "peak_mib": (peak - base) / MIB, "shared_base": shared_base}
    output.write_text(json.dumps(costs | counts))


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the children that it has waited for."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def forget_peak() -> None:
    """Let the peak memory of this process begin again at its present memory."""
    Path("/proc/self/clear_refs").write_text("5")


def own_memory() -> tuple[int, int]:
    """Return the present memory of this process and its peak, in bytes."""
    now, peak = (_kib(Path("/proc/self/status"), name) for name in ("VmRSS:", "VmHWM:"))
    return 1024 * sum(now), 1024 * sum(peak)


def _kib(path: Path, name: str) -> Iterable[int]:
    """Yield the number of KiB that a file of the kernel gives, if the process has not ended."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    yield from (int(line.split()[1]) for line in lines if line.startswith(name))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return e of the function c · size^e that fits the values best; None if one of them is not above 0."""
    if len(sizes) < 2 or min(values) <= 0:
        return None
    return statistics.linear_regression(list(map(math.log, sizes)), list(map(math.log, values))).slope


def table(result: Result) -> str:
    """Format the figures of a row, a line for each."""
    heads = [f"{size:,}" for size in result.sizes]
    lines = [f"{result.name}: {result.title}"]
    if result.error:
        return f"{lines[0]}\n  FAILED: {result.error}\n"
    lines.append(_line(result.unit, heads, "exponent"))
    for name, values in result.figures.items():
        growth = result.exponents[name]
        lines.append(
            _line(name, [f"{value:,.4g}" for value in values], "–" if growth is None else f"{growth:.2f}")
        )
    return "\n".join(lines) + "\n"


def _line(name: str, cells: Sequence[str], last: str) -> str:
    return f"  {name:24}{''.join(f'{cell:>20}' for cell in cells)}{last:>10}"


if __name__ == "__main__":
    sys.exit(main())
