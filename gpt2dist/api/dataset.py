"""A dataset directory: `gpt2dist.Dataset`."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing gpt2dist.Dataset does not import numpy
    import numpy as np
    from numpy.typing import NDArray

    from gpt2dist.dataset.manifest import Manifest, Totals
    from gpt2dist.tokenizer.tokenizer import Tokenizer

StrPath = str | os.PathLike[str]


class Dataset(os.PathLike[str]):
    """A dataset directory that `gpt2dist preprocess`, `gpt2dist adopt` or `Dataset.build` made.

    A dataset can be given wherever a path is expected, such as `gpt2dist.evaluate(run, dataset)`.

    Args:
        directory: The dataset directory.

    Attributes:
        directory: As given.
        manifest: The content of manifest.json: splits, shards, sizes, tokenizer, sources and options.

    Raises:
        UserError: The directory is not a dataset, or its manifest is damaged.

    Example:
        >>> dataset = gpt2dist.Dataset("data/quickstart")
        >>> dataset.splits, dataset.totals("train").tokens
        (('train', 'val'), 1003854)
        >>> dataset.tokens("train", [0, 64], 8)
        array([[…], […]], dtype=uint16)
    """

    manifest: "Manifest"

    def __init__(self, directory: StrPath):
        from gpt2dist.dataset.manifest import Manifest

        self.directory = Path(directory)
        self.manifest = Manifest.load(directory)

    def __fspath__(self) -> str:
        return str(self.directory)

    def __repr__(self) -> str:
        return f"Dataset({str(self.directory)!r})"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have tokens: "train", "val" or both."""
        return self.manifest.splits

    def totals(self, split: str) -> "Totals":
        """Return the numbers of tokens, documents, bytes and words of a split.

        Args:
            split: "train" or "val".

        Raises:
            UserError: The split does not exist or is empty.
        """
        return self.manifest.totals(split)

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer of the dataset, a copy of which is in its directory."""
        from gpt2dist.tokenizer.tokenizer import Tokenizer

        return Tokenizer.load(self.directory)

    def tokens(self, split: str, starts: Sequence[int], length: int) -> "NDArray[np.integer]":
        """Read windows of a split, which is one stream of tokens: its documents, each with end-of-text after it.

        Args:
            split: "train" or "val".
            starts: B positions in the stream, from 0.
            length: Tokens L per window.

        Returns:
            Array [B, L] in the dtype of the shards. Positions beyond the end of the stream are 0.

        Raises:
            UserError: The split does not exist, a start is negative, a shard is missing or damaged, or a token is
                not in the vocabulary.
        """
        import numpy as np

        from gpt2dist.errors import UserError
        from gpt2dist.loading.token_stream import TokenStream

        places = np.asarray(starts, np.int64)
        if places.ndim != 1 or (places < 0).any() or length < 0:
            raise UserError("starts must be a list of positions of at least 0, and length at least 0")
        return TokenStream.open(self.manifest, split).read(places, length)

    def documents(self, split: str) -> "Iterator[NDArray[np.integer]]":
        """Yield the tokens of each document of a split, in order, read-only, with end-of-text as the last one.

        Args:
            split: "train" or "val".

        Raises:
            UserError: The split does not exist, or a shard is missing or damaged.

        Example:
            >>> first = next(dataset.documents("train"))
            >>> dataset.tokenizer.decode(first[:-1])
            'First Citizen:…'
        """
        from gpt2dist.dataset.dataset import open_shard

        for record in self.manifest.shards_of(split):
            shard = open_shard(self.manifest, record)
            for number in range(shard.documents):
                yield shard.document(number)

    @classmethod
    def build(
        cls,
        inputs: StrPath | Sequence[StrPath],
        tokenizer: StrPath,
        output: StrPath,
        *,
        val_fraction: float = 0.0,
        text_field: str = "text",
        document_separator: str | None = None,
        format: str | None = None,
        encoding: str | None = None,
        deduplicate: bool = False,
        min_chars: int = 0,
        max_chars: int | None = None,
        normalizer: str | None = None,
        filters: Sequence[str] = (),
        lossy: bool = False,
        workers: int = 1,
        quiet: bool = False,
    ) -> "Dataset":
        """Build a dataset directory from a corpus, as `gpt2dist preprocess` does.

        The same call resumes an interrupted build, or opens a finished dataset. With more than one worker,
        call it below `if __name__ == "__main__":` in a script, as `multiprocessing` requires.

        Args:
            inputs: Files, directories, globs, URLs or "datasets:NAME" for a dataset of the Hugging Face hub.
            tokenizer: A directory with tokenizer.json, such a file, or a name on the Hugging Face hub.
            output: The dataset directory to create.
            val_fraction: Fraction of the documents in the split "val", chosen by a hash of the text.
            text_field: Key or column of the text in files of records; dots reach into nested objects.
            document_separator: Text between the documents of a text file; None: each file is one document.
            format: Format of all inputs, such as "text" or "jsonl"; None: inferred from their names.
            encoding: Encoding of text, JSON lines and CSV; None for UTF-8.
            deduplicate: Whether to keep only the first of documents with equal text.
            min_chars: Shorter documents are skipped.
            max_chars: Longer documents are skipped; None for no limit.
            normalizer: "module:function", str → str, applied to each document.
            filters: "module:function" of each filter, applied in order after the normalizer; see
                docs/guides/corpora.md.
            lossy: Whether to accept a tokenizer that may lose some of the text.
            workers: Number of worker processes.
            quiet: Whether to show only warnings and errors.

        Raises:
            UserError: An option, the corpus, the tokenizer or the output cannot be used. The message names the
                options of `gpt2dist preprocess`.
            RunError: A worker process was killed or a file cannot be written; calling it again resumes.

        Example:
            >>> dataset = gpt2dist.Dataset.build("corpus/", "tokenizer/", "dataset/", val_fraction=0.01)
        """
        from gpt2dist.api.display import Display
        from gpt2dist.corpus import Reading
        from gpt2dist.corpus.encodings import canonical_name
        from gpt2dist.monitoring.progress import quietly
        from gpt2dist.preprocessing import PreprocessingJob, prepare

        job = PreprocessingJob(
            inputs=tuple(os.fspath(each) for each in _as_sequence(inputs)),
            tokenizer=os.fspath(tokenizer),
            output=Path(output),
            lossy=lossy,
            format=format,
            reading=Reading(
                text_field=text_field,
                document_separator=document_separator,
                encoding=None if encoding is None else canonical_name(encoding),
            ),
            val_fraction=val_fraction,
            min_chars=min_chars,
            max_chars=max_chars,
            normalizer=normalizer,
            filters=tuple(filters),
            deduplicate=deduplicate,
            workers=workers,
        )
        with quietly(quiet), Display() as display:
            prepare(job, display.update, display.info, display.warn)
        return cls(output)


def _as_sequence(inputs: StrPath | Sequence[StrPath]) -> Sequence[StrPath]:
    return [inputs] if isinstance(inputs, str | os.PathLike) else inputs
