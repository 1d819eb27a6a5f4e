"""The lineage of a run, from corpus to results, identified by hashes."""

from pathlib import Path
from typing import Any

from gpt2dist.checkpoint.naming import checkpoint_name
from gpt2dist.errors import UserError
from gpt2dist.model.find_model import fingerprint
from gpt2dist.run.directory import RunDirectory
from gpt2dist.status import run_files
from gpt2dist.status.evaluations import Evaluation

Link = tuple[str, str, str]
"""Kind of artifact, its hash (empty if unknown), and a description."""


def lineage(run: Path, evaluations: list[Evaluation]) -> list[Link]:
    """Return corpus, tokenizer and dataset for each dataset, then the newest checkpoint, then the results."""
    facts = run_files.read_object(RunDirectory(run).environment)
    datasets, manifests = facts.get("datasets"), facts.get("dataset_manifests")
    links: list[Link] = []
    for path, known in datasets.items() if isinstance(datasets, dict) else ():
        links += _of_dataset(Path(path), str(known), manifests.get(path) if isinstance(manifests, dict) else None)
    saved = run_files.latest_checkpoint(run)
    if saved:
        directory = RunDirectory(run).checkpoints / checkpoint_name(saved[0])
        state = run_files.read_object(directory / "trainer_state.json")
        tokens = state.get("consumed_tokens")
        trained = f", {tokens:,} targets trained on" if isinstance(tokens, int) else ""
        links.append(("checkpoint", _weights(directory), f"{directory.name}{trained}"))
    for each in evaluations:
        result = run_files.read_object(
            RunDirectory(run).evaluations / each.name / f"{checkpoint_name(each.step)}.json"
        )
        data, model = (str(result.get(key) or "") for key in ("data", "model"))
        of = f", of the model {model[:12]} on the data {data[:12]}" if data and model else ""
        values = each.described() or "loss not finite"
        links.append(("result", "", f"{each.name} at step {each.step:,}: {values}{of}"))
    return links


def _of_dataset(path: Path, known: str, known_manifest: Any) -> list[Link]:
    """Return the links of corpus, tokenizer and dataset, or only the last if the dataset was moved or changed."""
    manifest = run_files.read_object(path / "manifest.json")
    if manifest.get("fingerprint") != known:
        return [("dataset", known, f"{path} (moved or changed since)")]
    changed = known_manifest is not None and manifest.get("manifest_sha256") != known_manifest
    sources, totals = (_object(manifest.get(key)) for key in ("sources", "totals"))
    return [
        ("corpus", str(sources.get("listing_sha256", "")), _amount(sources)),
        ("tokenizer", str(manifest.get("tokenizer_fingerprint", "")), f"{manifest.get('vocab_size')} ids"),
        ("dataset", known, f"{path}, {_splits(totals)}{' (manifest changed since)' if changed else ''}"),
    ]


def _amount(sources: dict[str, Any]) -> str:
    known = [f"{sources[key]:,} {key}" for key in ("files", "bytes") if isinstance(sources.get(key), int)]
    return ", ".join(known)


def _splits(totals: dict[str, Any]) -> str:
    tokens = {split: _object(count).get("tokens") for split, count in totals.items()}
    return ", ".join(f"{split} {count:,} tokens" for split, count in tokens.items() if isinstance(count, int))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _weights(checkpoint: Path) -> str:
    try:
        return fingerprint(checkpoint)
    except (OSError, UserError):  # missing or damaged
        return ""
