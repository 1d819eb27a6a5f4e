"""What a run is, for people: its size, its hardware, the command that started it, its best checkpoint."""

import shlex
from pathlib import Path
from typing import Any

from gpt2dist.checkpoint.naming import checkpoint_name
from gpt2dist.model.shape import Shape
from gpt2dist.run.directory import RunDirectory
from gpt2dist.status import run_files
from gpt2dist.status.evaluations import Evaluation


def parameters(run: Path) -> int | None:
    """Return the number of parameters without padding, or None if it is not known yet."""
    saved = run_files.latest_checkpoint(run)
    directory = RunDirectory(run).checkpoints / checkpoint_name(saved[0]) if saved else None
    sizes = run_files.read_object(directory / "config.json") if directory else {}
    if not sizes:
        model = run_files.read_settings(run).get("model", {})
        sizes = {"n_positions": model.get("context_length"), **model, "vocab_size": _vocabulary(run)}
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    values = [sizes.get(name) for name in names]
    known = [each for each in values if isinstance(each, int) and not isinstance(each, bool) and each > 0]
    return Shape(*known).parameters if len(known) == len(names) else None


def hardware(facts: dict[str, Any]) -> str:
    """Describe the ranks and their host, as environment.json has them; empty if it has neither."""
    size, gpu, host, cpus = (facts.get(key) for key in ("world_size", "gpu", "host", "cpus"))
    if not isinstance(size, int):
        return ""
    ranks = f"{size:,} × {gpu}" if gpu else f"{size:,} rank{'s' * (size != 1)} on CPUs"
    place = f", started on {host}" if host else ""
    return f"{ranks}{place}{f' ({cpus} CPU cores)' if cpus and host else ''}"


def command(facts: dict[str, Any]) -> str:
    """Return the command of the last start as it was typed; empty if unknown."""
    words = facts.get("command")
    if not isinstance(words, list) or not words:
        return ""
    program, *rest = map(str, words)
    # `python -m gpt2dist` has the path of the package's __main__.py instead of a name.
    name = "gpt2dist" if Path(program).name in ("__main__.py", "gpt2dist") else program
    return shlex.join([name, *rest])


def best_evaluations(results: list[Evaluation], key: str) -> list[Evaluation]:
    """Return the result with the lowest value of a measure for each name, by name."""
    best: dict[str, tuple[float, Evaluation]] = {}
    for each in results:
        value = each.values.get(key)
        if value is not None and (each.name not in best or value < best[each.name][0]):
            best[each.name] = (value, each)
    return [best[name][1] for name in sorted(best)]


def _vocabulary(run: Path) -> Any:
    datasets = run_files.read_object(RunDirectory(run).environment).get("datasets")
    first = next(iter(datasets), None) if isinstance(datasets, dict) else None
    return run_files.read_object(Path(first) / "manifest.json").get("vocab_size") if first else None
