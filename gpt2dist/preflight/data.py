"""Load and check the datasets for training and validation."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2dist.config import Config, Problem
from gpt2dist.config.schema import TrainingDataset
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.loading.mixture import rounded, whole_shares
from gpt2dist.loading.token_stream import check_files
from gpt2dist.loading.windows import Windows
from gpt2dist.plan import TrainingSet, ValidationSet
from gpt2dist.preflight.model import Lengths


def training_sets(config: Config, lengths: Lengths) -> tuple[tuple[TrainingSet, ...], list[Problem]]:
    """Return the training sets, which are empty unless all of them are valid, and the problems found."""
    train = config.data.train
    if not train:
        return (), [Problem("data.train", "missing; name at least one dataset, as in `train: [{path: DATASET}]`")]
    problems: list[Problem] = []
    right: list[Manifest] = []
    for number, entry in enumerate(train):
        key, loaded = f"data.train.{number}.path", _load_manifest(entry.path)
        if isinstance(loaded, str):
            problems.append(Problem(key, loaded))
        elif wrong := _unfit_to_train(key, entry, loaded, right, lengths.sequence):
            problems.append(wrong)
        else:
            right.append(loaded)
    if not problems:
        problems += _check_weights(train, right)
    blend = () if problems or not lengths.sequence else _blend(config, lengths, right)
    return blend, problems


def validation_sets(
    config: Config, trained_on: Sequence[TrainingSet]
) -> tuple[tuple[ValidationSet, ...], list[Problem]]:
    """Return the valid validation sets, and the problems found."""
    problems: list[Problem] = []
    right: list[ValidationSet] = []
    names: set[str] = set()
    for number, entry in enumerate(config.data.validation):
        key = f"data.validation.{number}"
        if entry.name in names:
            twice = f"{entry.name!r} names two validation sets; give each its own name"
            problems.append(Problem(f"{key}.name", twice))
        names.add(entry.name)
        loaded = _load_manifest(entry.path)
        if isinstance(loaded, str):
            problems.append(Problem(f"{key}.path", loaded))
            continue
        split = "val" if "val" in loaded.splits else "train"
        if wrong := _unfit_to_validate(loaded, split, trained_on):
            problems.append(Problem(f"{key}.path", f"{entry.path} {wrong}"))
        elif incomplete := _incomplete(f"{key}.path", loaded, split):
            problems.append(incomplete)
        else:
            right.append(ValidationSet(entry.name, loaded, split))
    if config.evaluation.every_steps and not config.data.validation:
        nothing = "there is nothing to evaluate on; name a dataset under data.validation, or remove it"
        problems.append(Problem("evaluation.every_steps", nothing, also=("data.validation",)))
    return tuple(right), problems


def _unfit_to_train(
    key: str, entry: TrainingDataset, loaded: Manifest, others: Sequence[Manifest], sequence_length: int
) -> Problem | None:
    if "train" not in loaded.splits:
        fix = "preprocess the corpus with a smaller --val-fraction"
        return Problem(key, f"{entry.path} has no train split; {fix}")
    if loaded.totals("train").tokens <= sequence_length:
        return Problem(
            key,
            f"{entry.path} has {loaded.totals('train').tokens} training tokens, fewer than one window of "
            f"{sequence_length} + 1; give it more text or lower data.sequence_length",
            also=("data.sequence_length", "model.context_length", "model.preset"),
        )
    if others and loaded.tokenizer_fingerprint != others[0].tokenizer_fingerprint:
        return Problem(key, f"{entry.path} {_other_tokenizer(others[0])}")
    for other in others:
        if loaded.fingerprint == other.fingerprint:
            fix = "name it once, with the sum of the weights"
            return Problem(key, f"{entry.path} has the same data as {other.directory}; {fix}")
    return _incomplete(key, loaded, "train")


def _unfit_to_validate(loaded: Manifest, split: str, trained_on: Sequence[TrainingSet]) -> str:
    """Return why a split cannot be used for validation, with a fix; empty if it can."""
    if split not in loaded.splits or loaded.totals(split).tokens < 2:
        return "has fewer than two tokens to score; give it more text"
    if not trained_on:
        return ""
    if split == "train" and loaded.fingerprint in [each.dataset.fingerprint for each in trained_on]:
        return (
            "has no val split, and the run trains on its train split; "
            "preprocess it with --val-fraction, or name another dataset"
        )
    first = trained_on[0].dataset
    if loaded.tokenizer_fingerprint != first.tokenizer_fingerprint:
        return _other_tokenizer(first)
    return ""


def _other_tokenizer(other: Manifest) -> str:
    return f"was made with another tokenizer than {other.directory}; preprocess both with the same one"


def _check_weights(train: Sequence[TrainingDataset], loaded: Sequence[Manifest]) -> Iterator[Problem]:
    """Check the weights of the training sets."""
    weights = [entry.weight for entry in train]
    if None in weights and len(weights) > 1:
        by_tokens = rounded([manifest.totals("train").tokens for manifest in loaded])
        for number, (weight, proposed) in enumerate(zip(weights, by_tokens, strict=True)):
            if weight is None:
                yield Problem(
                    f"data.train.{number}.weight",
                    f"missing; each of several datasets needs one; its share of all tokens is {proposed:g}",
                )


def _blend(config: Config, lengths: Lengths, loaded: Sequence[Manifest]) -> tuple[TrainingSet, ...]:
    names = _short_names([manifest.directory for manifest in loaded])
    shares = whole_shares([entry.weight or 1.0 for entry in config.data.train])
    blend = []
    for name, manifest, share in zip(names, loaded, shares, strict=True):
        windows = Windows(manifest.totals("train").tokens, lengths.sequence, lengths.stride)
        every = config.data.loss_on == "all"
        targets = len(windows) * lengths.sequence if every else windows.targets
        blend.append(TrainingSet(name, manifest, windows, share, targets))
    return tuple(blend)


def _load_manifest(path: Path) -> Manifest | str:
    """Return the manifest of a dataset directory, or an error message."""
    try:
        return Manifest.load(path)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror}; name a dataset directory"


def _incomplete(key: str, manifest: Manifest, split: str) -> Problem | None:
    """Return a problem if files of a split are missing or differ in size from the manifest."""
    try:
        check_files(manifest, split)
    except UserError as error:
        return Problem(key, str(error))
    return None


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last components of each path, just enough to make all of them distinct."""
    most = max(len(path.parts) for path in paths)
    for length in range(1, most + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
