r"""Compare recipes by the loss that they reach, at equal steps and at equal CPU time, over several seeds.

    python tools/bench/time_to_loss.py configs/shakespeare-char.yaml --output results \
        --across 'evaluation.every_steps=200 evaluation.stride=64' \
        --across optimizer.kind=adamw 'optimizer.kind=muon optimizer.options.lr=0.01' \
        --across optimizer.lr=1e-3 optimizer.lr=3e-3 --seeds 0 1 2 --nanogpt ~/nanoGPT

Every recipe is trained by `gpt2dist train` with every combination of the alternatives of each --across. An
alternative is one or more overrides, separated by spaces. For nanoGPT (https://github.com/karpathy/nanoGPT), give
a checkout: its train.py runs unchanged, with the arguments that its README gives for CPUs, on the tokens of the
first recipe.

A round trains everything once, with one seed, so that other load on the machine affects all. Losses are those of
the whole validation set. CPU time is that of the processes, with all threads, from the first step on and without
evaluations; nanoGPT's includes one batch of its own evaluation for each of ours.

After each run, its curve is added to OUTPUT/results.jsonl. The same command goes on after the runs that it finds
there, so a sweep can be stopped. The table, also in OUTPUT/table.md, shows the mean and the range over the seeds.
The reference is nanoGPT or, without it, the first candidate. The target is its lowest last loss, or --target. A
run has reached it at the first evaluation that is not above it; its CPU time until then is divided by that of the
reference's whole run with the same seed.
"""

import argparse
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gpt2dist.config import Config

HERE = Path(__file__).resolve().parent
NANOGPT = "nanoGPT"
README_ARGUMENTS = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=1 --log_interval=20 "
    "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 "
    "--lr_decay_iters=2000 --dropout=0.0"
)
"""Arguments of train.py in nanoGPT's README for CPUs, with a shorter evaluation of its own and fewer logs."""


@dataclass(frozen=True)
class Point:
    """An evaluation.

    Attributes:
        step: Optimizer steps done.
        cpu_seconds: CPU time of training until then.
        loss: Loss of the whole validation set, in nats per token.
    """

    step: int
    cpu_seconds: float
    loss: float


@dataclass(frozen=True)
class Result:
    """A run: what was trained, and its curve."""

    candidate: str
    seed: int
    curve: tuple[Point, ...]

    @property
    def last(self) -> Point:
        """The last evaluation."""
        return self.curve[-1]

    def loss_at(self, seconds: float) -> float:
        """Return the loss at a CPU time, interpolated between evaluations; NaN outside the curve."""
        times, losses = [p.cpu_seconds for p in self.curve], [p.loss for p in self.curve]
        return float(np.interp(seconds, times, losses, left=np.nan, right=np.nan))

    def first_at(self, loss: float) -> Point | None:
        """Return the first evaluation whose loss is not above the given one."""
        return next((point for point in self.curve if point.loss <= loss), None)


def main() -> None:
    """Train what is missing, and print the table."""
    args = parse()
    if args.nanogpt and not (args.nanogpt / "train.py").is_file():
        sys.exit(f"--nanogpt: there is no {args.nanogpt}/train.py; give a checkout of nanoGPT")
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "results.jsonl"
    results = read_results(path)
    runs = candidates(args)
    for seed in args.seeds:
        for name, train in runs.items():
            if any(each.candidate == name and each.seed == seed for each in results):
                continue
            result = Result(name, seed, tuple(train(seed)))
            results.append(result)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            print(f"{name}, seed {seed}: {show_point(result.last)}", file=sys.stderr, flush=True)
            (args.output / "table.md").write_text(table(results, args.target), encoding="utf-8")
    print(table(results, args.target))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="configuration files")
    parser.add_argument("--output", type=Path, required=True, help="directory of the results")
    parser.add_argument("--across", nargs="+", action="append", default=[], metavar="OVERRIDES")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--target", type=float, help="loss to reach; default: the reference's lowest last loss")
    parser.add_argument("--processes", type=int, default=1, help="ranks of gpt2dist; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process; default: %(default)s")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument(
        "--nanogpt-arguments", default=README_ARGUMENTS, help="of its train.py; default: %(default)s"
    )
    return parser.parse_args()


def candidates(args: argparse.Namespace) -> dict[str, Callable[[int], Iterable[Point]]]:
    """Return the name of each candidate, the reference first, and the function that trains it with a seed."""
    runs: dict[str, Callable[[int], Iterable[Point]]] = {}
    if args.nanogpt:
        overrides = [word for each in args.across for word in shlex.split(each[0])]
        scoring = [word for word in overrides if word.startswith("evaluation.")]
        name = " ".join([NANOGPT, *scoring, args.nanogpt_arguments])
        runs[name] = lambda seed: train_nanogpt(args, scoring, seed)
    for recipe, *alternatives in itertools.product(args.recipes, *args.across):
        overrides = [word for each in alternatives for word in shlex.split(each)]
        name = " ".join([recipe.stem, *overrides])
        runs[name] = lambda seed, recipe=recipe, overrides=overrides: train(args, recipe, overrides, seed)
    return runs


def train(args: argparse.Namespace, recipe: Path, overrides: Sequence[str], seed: int) -> list[Point]:
    """Train a recipe with gpt2dist, and return its curve."""
    with tempfile.TemporaryDirectory() as home:
        several = ["launch", "--nproc-per-node", str(args.processes)] if args.processes > 1 else []
        own = [f"run.output_dir={home}/run", f"run.seed={seed}", "run.hooks=[cpu_clock:CpuClock]"]
        words = ["-m", "gpt2dist", *several, "train", str(recipe), *overrides, *own]
        call(words, args.threads)
        lines = [json.loads(line) for line in (Path(home) / "run/metrics.jsonl").read_text().splitlines()]
    losses: dict[int, float] = {}
    seconds: dict[int, float] = {}
    for line in lines:
        for tag, value in line.items():
            if tag.startswith("eval/") and tag.endswith("/loss"):
                losses.setdefault(line["step"], value)  # of the first validation set
            elif tag == "bench/cpu_seconds":
                seconds[line["step"]] = value
    return [Point(step, seconds[step], loss) for step, loss in losses.items()]


def train_nanogpt(args: argparse.Namespace, scoring: Sequence[str], seed: int) -> list[Point]:
    """Run nanoGPT's train.py, and return its curve. It is evaluated as often as the first candidate."""
    every = Config.read(args.recipes[0], *scoring).evaluation.every_steps
    with tempfile.TemporaryDirectory() as home:
        curve = Path(home) / "curve.jsonl"
        words = [str(HERE / "nanogpt_run.py"), str(args.nanogpt), str(args.recipes[0]), str(curve), str(seed)]
        words += [json.dumps(scoring), *shlex.split(args.nanogpt_arguments), f"--eval_interval={every}"]
        call(words, args.threads)
        return [Point(**json.loads(line)) for line in curve.read_text().splitlines()]


def call(words: Sequence[str], threads: int) -> None:
    """Run Python; leave if it fails. What it printed is shown only then."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))  # for cpu_clock
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}{shlex.join(words)} failed")


def read_results(path: Path) -> list[Result]:
    """Read the results that an earlier call left."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [
        Result(each["candidate"], each["seed"], tuple(Point(**point) for point in each["curve"]))
        for each in map(json.loads, lines)
    ]


def table(results: Sequence[Result], target: float | None) -> str:
    """Return the results as a Markdown table, one row per candidate."""
    names = short_names([each.candidate for each in results])
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(names[result.candidate], []).append(result)
    reference = by_name.get(NANOGPT) or next(iter(by_name.values()))
    target = min(each.last.loss for each in reference) if target is None else target
    steps = statistics.median(each.last.step for each in reference)
    seconds = statistics.mean(each.last.cpu_seconds for each in reference)
    parts = (0.25, 0.5, 1.0)
    header = [
        "candidate",
        "seeds",
        *(f"loss at {steps * part:.0f} steps" for part in parts),
        *(f"at {seconds * part:.0f} s of CPU time" for part in parts),
        "last step",
        "last loss",
        "CPU time (s)",
        f"steps to {target:.4f} ÷ {steps:.0f}",
        "CPU time to it ÷ the reference's",
    ]
    rows = [header, ["---"] * len(header)]
    for name, runs in by_name.items():
        own = {each.seed: each.last.cpu_seconds for each in reference}  # of the same round, if there is one
        reached = [(each.first_at(target), own.get(each.seed, seconds)) for each in runs]
        rows.append(
            [
                name,
                str(len(runs)),
                *(show([loss_after(each, steps * part) for each in runs], 4) for part in parts),
                *(show([each.loss_at(seconds * part) for each in runs], 4) for part in parts),
                show([each.last.step for each in runs], 0),
                show([each.last.loss for each in runs], 4),
                show([each.last.cpu_seconds for each in runs], 0),
                show([point.step / steps if point else np.nan for point, _ in reached], 3),
                show([point.cpu_seconds / of if point else np.nan for point, of in reached], 3),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def short_names(candidates: Iterable[str]) -> dict[str, str]:
    """Return names for the table: without the arguments of nanoGPT, and without what all others share."""
    ours = {name: name.split() for name in candidates if not name.startswith(NANOGPT)}
    shared = set.intersection(*map(set, ours.values())) if len(ours) > 1 else set()
    short = {name: " ".join(word for word in words if word not in shared) for name, words in ours.items()}
    return {name: NANOGPT for name in candidates if name not in ours} | short


def loss_after(result: Result, step: float) -> float:
    """Return the loss after a number of steps; NaN if it was not evaluated there."""
    return next((point.loss for point in result.curve if point.step == step), np.nan)


def show(values: Sequence[float], digits: int) -> str:
    """Return the mean of the values and their range; "–" if one is missing."""
    if any(np.isnan(values)):
        return "–"
    mean = f"{statistics.mean(values):,.{digits}f}"
    low, high = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
    return mean if low == high else f"{mean} ({low}–{high})"


def show_point(point: Point) -> str:
    """Return a point of a curve for people."""
    return f"loss {point.loss:.4f} after {point.step} steps and {point.cpu_seconds:.0f} s of CPU time"


if __name__ == "__main__":
    main()
