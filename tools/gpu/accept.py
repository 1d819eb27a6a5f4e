"""Check gpt2dist on one GPU in at most ten minutes: correctness, speed beside its peers, memory, and saving.

    python tools/gpu/accept.py --nanogpt ~/nanoGPT --output acceptance
    python tools/gpu/accept.py --small --only first-steps trace    # on a CPU, with a tiny model

Prints a table with a pass line for every number, and writes OUTPUT/results.json after each stage. Each stage is a
process with a time limit: its share of --minutes, and what the stages before it left. A stage that fails or runs
out of time is reported, and the rest goes on. Exits with 1 if a check fails. OUTPUT/logs has the stages' output.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

SHARES = {
    "first-steps": 70,
    "parity": 50,
    "precisions": 80,
    "offload": 40,
    "speed": 150,
    "memory": 50,
    "saving": 30,
    "resume": 60,
    "evaluate": 30,
    "generate": 30,
    "trace": 30,
    "loss": 30,
    "isolate": 30,
    "speed-355m": 70,
    "speed-774m": 50,
}
"""Stage → its share of the time, in seconds of a total that --minutes scales."""
COMPARISONS = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "==": lambda value, limit: value == limit,
}


@dataclass
class Check:
    """One number, and the line that it must pass.

    Attributes:
        stage: Name of the stage.
        name: What is measured.
        value: The number; None if it was not measured.
        comparison: How it must compare with the limit, a key of COMPARISONS.
        limit: The limit.
        verdict: PASS, FAIL or SKIPPED.
        note: The reason of a verdict other than PASS, or details.
    """

    stage: str
    name: str
    value: float | None
    comparison: str
    limit: float | None
    verdict: str
    note: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Run the stages, print the table, and return the exit code."""
    args = parse(arguments)
    if args.stage:
        run_stage(args)
    if not args.small and not has_gpu():
        print("accept.py: there is no GPU; give --small to try the checks on a CPU", file=sys.stderr)
        return 2
    shutil.rmtree(args.output / "stages", ignore_errors=True)
    (args.output / "logs").mkdir(parents=True, exist_ok=True)
    (args.output / "stages").mkdir()
    checks = run_all(args, {name: share for name, share in SHARES.items() if name in (args.only or SHARES)})
    print(table(checks), flush=True)
    print(f"written to {args.output / 'results.json'}")
    return int(any(check.verdict == "FAIL" for check in checks))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("acceptance"), help="directory; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=SHARES, metavar="STAGE", help=f"of {', '.join(SHARES)}")
    parser.add_argument("--minutes", type=float, default=10, help="time for all stages; default: %(default)g")
    parser.add_argument("--small", action="store_true", help="tiny models; checks that need a GPU are skipped")
    parser.add_argument("--nanogpt", type=Path, help="a directory with nanoGPT's model.py")
    parser.add_argument("--data", type=Path, help="a dataset directory; not given, first one is made")
    parser.add_argument("--stage", choices=SHARES, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def has_gpu() -> bool:
    """Return whether torch sees a GPU. Another process asks, so that this one holds none of its memory."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def run_all(args: argparse.Namespace, shares: dict[str, float]) -> list[Check]:
    """Run the stages one after the other, and write the results after each."""
    began, allotted, checks, seconds = time.monotonic(), 0.0, [], {}
    for name, share in shares.items():
        allotted += 60 * args.minutes * share / sum(shares.values())
        started = time.monotonic()
        checks += run_limited(args, name, allotted - (started - began))
        seconds[name] = round(time.monotonic() - started, 1)
        print(f"{name}: {seconds[name]} s", flush=True)
        write(args, checks, seconds)
    return checks


def run_limited(args: argparse.Namespace, name: str, limit: float) -> list[Check]:
    """Run a stage in a process of its own, at most `limit` seconds, and return its checks."""
    words = [sys.executable, __file__, "--stage", name, "--output", str(args.output)]
    words += ["--small"] * args.small
    words += ["--nanogpt", str(args.nanogpt.resolve())] if args.nanogpt else []
    words += ["--data", str(args.data.resolve())] if args.data else []
    log = args.output / "logs" / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(max(limit, 1))
            fault = f"it ended with code {code}: {last_line(log)}" if code else ""
        except subprocess.TimeoutExpired:
            fault = f"it ran past its {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    checks = recorded(args.output, name)
    if fault:
        checks.append(Check(name, "the stage ends", 0, "==", 1, "FAIL", f"{fault}; see {log}"))
    return checks


def recorded(output: Path, name: str) -> list[Check]:
    """Return the checks that a stage has recorded."""
    path = output / "stages" / f"{name}.jsonl"
    return [Check(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next(filter(None, reversed(lines)), "it printed nothing")[:200]


def run_stage(args: argparse.Namespace) -> NoReturn:
    """Run one stage, and end this process."""
    import stages  # beside this file; it imports what it needs

    stages.run(args)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the thread of a Trainer may still wait, and ends an interpreter that exits with an abort


def write(args: argparse.Namespace, checks: list[Check], seconds: dict[str, float]) -> None:
    """Write the results so far."""
    content = {"small": args.small, "seconds": seconds, "checks": [asdict(check) for check in checks]}
    facts = args.output / "facts.json"
    content["facts"] = json.loads(facts.read_text()) if facts.exists() else {}
    temporary = args.output / "results.json.tmp"
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    temporary.replace(args.output / "results.json")


def table(checks: list[Check]) -> str:
    """Return the checks as a table."""
    rows = [("stage", "check", "value", "passes if", "verdict", "note")]
    for check in checks:
        line = "–" if check.limit is None else f"{check.comparison} {check.limit:.6g}"
        value = "–" if check.value is None else f"{check.value:.6g}"
        rows.append((check.stage, check.name, value, line, check.verdict, check.note))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]]).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
