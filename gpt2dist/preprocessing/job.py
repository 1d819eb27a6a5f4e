"""A preprocessing job: its options, and the directories that follow from its output."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt2dist.corpus import Reading
from gpt2dist.corpus.damage import DamageLimits
from gpt2dist.errors import UserError
from gpt2dist.output_paths import resolved

STANDARD_INPUT = "-"
MIN_MEMORY = 512 << 20


@dataclass(frozen=True)
class PreprocessingJob:
    """A preprocessing job. It is hashable, and equal in all workers of a driver."""

    inputs: tuple[str, ...]
    """Files, directories, globs, URLs and datasets; see `corpus.discover`."""
    tokenizer: str
    """A directory with tokenizer.json, that file, or a name on the Hugging Face hub."""
    output: Path
    """The dataset directory to create. A symbolic link is resolved, so that `build` is on the same disk."""
    lossy: bool = False
    """Whether to accept a tokenizer that may lose some of the text."""
    format: str | None = None
    """The format of all inputs, a name or `package.module:attribute`; None: inferred from their names."""
    suffixes: tuple[str, ...] | None = None
    """Suffixes of the files to read from directories; None: those of all readers."""
    reading: Reading = field(default_factory=Reading)
    """Options for reading documents."""
    val_fraction: float = 0.0
    """Fraction of the documents in the validation split, in [0, 1)."""
    shard_tokens: int = 1 << 30
    """Maximum tokens in a shard; a longer document gets its own shard."""
    min_chars: int = 0
    """Shorter documents are skipped."""
    max_chars: int | None = None
    """Longer documents are skipped."""
    normalizer: str | None = None
    """"module:function", str → str, applied to each document."""
    filters: tuple[str, ...] = ()
    """"module:function" each, str → str or `Skip`, in this order, after the normalizer."""
    deduplicate: bool = False
    """Whether to keep only the first of equal documents."""
    on_bad_text: str = "replace"
    """"replace" substitutes U+FFFD for invalid Unicode, "fail" stops the job."""
    max_bad_fraction: float = 0.001
    """Fraction of the documents that may be unreadable before the job fails, in [0, 1]."""
    max_replaced_fraction: float = 0.001
    """Fraction of the characters that may be replaced by U+FFFD before the job fails, in [0, 1]."""
    workers: int = 1
    """The number of worker processes; ignored if `scheduler` is set."""
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers see the corpus and the output under the same paths."""
    memory_per_worker: int = 1 << 30
    """Bytes of memory that a worker may use."""
    encoder: str = ""
    """Name of the encoder chosen for this corpus."""
    tokenizer_fingerprint: str = ""
    """Fingerprint of the tokenizer that the driver loaded."""
    driver: str = ""
    """Unique identifier of the driver process; a job array runs several drivers for one job."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", resolved(self.output))

    @property
    def build(self) -> Path:
        """The build directory, OUTPUT.partial."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def submissions(self) -> Path:
        """The directory where `gpt2dist submit` keeps the files of its jobs."""
        return self.output.with_name(self.output.name + ".submission")

    @property
    def running(self) -> Path:
        """The directory of running attempts."""
        return self.build / "running"

    @property
    def stop(self) -> Path:
        """Marker file that the driver creates to stop its workers."""
        return self.running / f"stop-{self.driver}"

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine the content of the shards."""
        names = ("val_fraction", "shard_tokens", "min_chars", "max_chars", "normalizer", "deduplicate")
        chosen = {name: getattr(self, name) for name in names}
        return asdict(self.reading) | chosen | {"filter": list(self.filters) or None}

    def check(self) -> None:
        """Check the options.

        Raises:
            UserError: An option is out of range; the message names it.
        """
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction {self.val_fraction}: must be at least 0 and below 1, such as 0.01")
        DamageLimits(self.on_bad_text, self.max_bad_fraction, self.max_replaced_fraction).check()
        for name in ("workers", "shard_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.min_chars < 0 or (self.max_chars is not None and self.max_chars < max(1, self.min_chars)):
            raise UserError(
                f"--min-chars {self.min_chars}, --max-chars {self.max_chars}: no document satisfies both; "
                "they must be positive, and the second not below the first"
            )
        if self.memory_per_worker < MIN_MEMORY:
            raise UserError(
                f"--memory-per-worker: {self.memory_per_worker >> 20} MiB is too little, a worker needs "
                f"{MIN_MEMORY >> 20} MiB for its libraries and buffers"
            )
