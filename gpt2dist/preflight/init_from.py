"""Read the model that `model.init_from` names, and check that its shape and tokenizer fit the run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.config import Config, Problem
from gpt2dist.errors import UserError
from gpt2dist.model.find_model import locate
from gpt2dist.model.huggingface import Pretrained
from gpt2dist.model.shape import PRESETS
from gpt2dist.plan import TrainingSet
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.latest import named_checkpoint

if TYPE_CHECKING:  # the tokenizer library is imported only for runs that use init_from
    from gpt2dist.tokenizer.tokenizer import Tokenizer

KEY = "model.init_from"


def read_origin(config: Config) -> tuple[Config, Pretrained | None, list[Problem]]:
    """Return the configuration with the sizes of the `init_from` model, that model, and the problems found.

    A run that has checkpoints reads its checkpoint instead, so the original model may have been deleted by then.
    """
    if not config.model.init_from:
        unused = Problem("model.resize", "there is no model to resize; set model.init_from, or remove it")
        return config, None, [unused] if config.model.resize else []
    try:
        origin = Pretrained.read(_checkpoint(config) or locate(config.model.init_from, weights=False))
    except UserError as error:
        return config, None, [Problem(KEY, str(error))]
    problems = [*_unlike_ours(origin), *_other_sizes(config, origin)]
    shape = origin.shape
    sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd}
    sizes["context_length"] = config.model.context_length or shape.context_length
    return config.model_copy(update={"model": config.model.model_copy(update=sizes)}), origin, problems


def check_vocabulary(
    origin: Pretrained | None, config: Config, datasets: Sequence[TrainingSet]
) -> Iterator[Problem]:
    """Check that each token id means the same to the model and the datasets."""
    if not origin or not datasets:
        return
    dataset, rows = datasets[0].dataset, origin.shape.vocab_size
    try:
        theirs = _tokenizer(origin.directory)
        if theirs and theirs.fingerprint != dataset.tokenizer_fingerprint:
            from gpt2dist.tokenizer.tokenizer import Tokenizer

            ours = Tokenizer.load(dataset.directory).vocabulary
            moved = next(
                (token for token, number in theirs.vocabulary.items() if ours.get(token) != number), None
            )
            if moved is not None:
                yield Problem(
                    KEY,
                    f"{origin.directory} has another tokenizer than {dataset.directory}, which does not extend "
                    f"it ({moved!r} is {theirs.vocabulary[moved]} there, {ours.get(moved, 'unknown')} here); "
                    f"preprocess the text with --tokenizer {origin.directory}",
                    also=("data.train",),
                )
                return
    except UserError as error:
        yield Problem(KEY, str(error))
        return
    if not theirs and rows != dataset.vocab_size:
        yield Problem(
            KEY,
            f"{origin.directory} has {rows:,} tokens and no tokenizer, and {dataset.directory} has "
            f"{dataset.vocab_size:,}; put the model's tokenizer into its directory, so that ids can be compared",
            also=("data.train",),
        )
    elif rows < dataset.vocab_size and not config.model.resize:
        yield Problem(
            "model.resize",
            f"{origin.directory} has {rows:,} tokens and {dataset.directory} has {dataset.vocab_size:,}; set it "
            "to true to initialize the new ones as in a new model",
            also=("data.train", KEY),
        )


def vocab_size_of(origin: Pretrained | None, datasets: Sequence[TrainingSet]) -> int:
    """Return the vocabulary size of the model to train: the larger of the datasets' and the original model's."""
    return max(datasets[0].dataset.vocab_size, origin.shape.vocab_size if origin else 0)


def _checkpoint(config: Config) -> Path | None:
    """Return the checkpoint that the run would resume from, judging by file names, or None."""
    try:
        named = named_checkpoint(config.checkpoint.resume)
    except UserError:
        return None
    if named:
        return named if (named / "config.json").is_file() else None
    checkpoints = sorted(RunDirectory(config.output_dir).checkpoints.glob("step-*[0-9]/config.json"))
    return checkpoints[-1].parent if checkpoints else None


def _unlike_ours(origin: Pretrained) -> Iterator[Problem]:
    for difference in origin.differences:
        yield Problem(KEY, f"{origin.directory}: {difference}, which gpt2dist cannot train; name another model")


def _other_sizes(config: Config, origin: Pretrained) -> Iterator[Problem]:
    """Check that sizes given in the configuration equal those of the model."""
    model, shape = config.model, origin.shape
    n_layer, n_head, n_embd = PRESETS[model.preset] if model.preset else (None, None, None)
    for key, value, theirs in (
        ("n_layer", model.n_layer or n_layer, shape.n_layer),
        ("n_head", model.n_head or n_head, shape.n_head),
        ("n_embd", model.n_embd or n_embd, shape.n_embd),
    ):
        if value and value != theirs:
            named = key if getattr(model, key) else "preset"
            yield Problem(
                f"model.{named}",
                f"{key} {value} differs from that of {origin.directory} ({theirs}); remove it",
                (KEY,),
            )
    context = model.context_length
    if context and context != shape.context_length and not model.resize:
        longer = context > shape.context_length
        change = "initialize the new positions as in a new model" if longer else "drop the last positions"
        yield Problem(
            "model.context_length",
            f"{context} differs from that of {origin.directory} ({shape.context_length}); remove it, or set "
            f"model.resize to true to {change}",
            (KEY, "model.resize"),
        )


def _tokenizer(directory: Path) -> "Tokenizer | None":
    """Return the tokenizer in a model's directory, or None."""
    from gpt2dist.tokenizer.tokenizer import FILE_NAME, Tokenizer, import_gpt2

    if (directory / FILE_NAME).is_file():
        return Tokenizer.load(directory)
    vocab, merges = directory / "vocab.json", directory / "merges.txt"
    return import_gpt2(vocab, merges) if vocab.is_file() and merges.is_file() else None
