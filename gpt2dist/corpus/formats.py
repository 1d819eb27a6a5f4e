"""Detection of a file's format and compression from its name."""

from gpt2dist.errors import UserError

COMPRESSIONS = ("gz", "zst", "xz", "bz2")
PLAIN_FORMATS = ("text", "jsonl", "csv", "tsv")
"""Formats of files that may be compressed as a whole."""
FORMATS = (*PLAIN_FORMATS, "parquet", "arrow")

HUB_PREFIX = "datasets:"
"""Prefix of inputs that are datasets on the Hugging Face hub."""

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_TEXT_SUFFIXES = (".txt", ".md", ".rst")
_JSON = ".json"
"""Usually JSON lines; but in directories, .json files are often metadata, so they are read only if named."""
_UNREADABLE = (
    *(".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".lzma", ".lz", ".z"),
    *(".pdf", ".docx", ".xlsx", ".feather", ".orc", ".avro"),
)

DEFAULT_SUFFIXES = (
    *_TEXT_SUFFIXES,
    *_SUFFIXES,
    *(
        f"{suffix}.{compression}"
        for suffix in (*_TEXT_SUFFIXES, *_SUFFIXES)
        for compression in COMPRESSIONS
        if _SUFFIXES.get(suffix, "text") in PLAIN_FORMATS
    ),
)
"""Suffixes that a directory is searched for by default."""


def no_file_in_directory(name: str, suffixes: tuple[str, ...]) -> str:
    """Describe a directory without a matching file, for an error message."""
    wanted = "a suffix that is read" if suffixes == DEFAULT_SUFFIXES else " ".join(suffixes)
    return (
        f"{name}: no file in this directory ends in {wanted}; "
        "--suffix .xyz takes others, a glob such as 'DIR/**/*.xyz' takes all that it matches"
    )


def format_of(path: str, given: str | None = None) -> tuple[str, str]:
    """Return the format and the compression of a file from its name. The format defaults to text.

    Args:
        path: Path or URL of the file.
        given: Format chosen by the user, if any; the name then determines the compression only.

    Raises:
        UserError: Files of this kind cannot be read.
    """
    name = path.lower()
    compression = next((kind for kind in COMPRESSIONS if name.endswith(f".{kind}")), "")
    stem = name.removesuffix(f".{compression}") if compression else name
    if given is None and stem.endswith(_UNREADABLE):
        suffix = next(suffix for suffix in _UNREADABLE if stem.endswith(suffix))
        raise UserError(f"{path}: {suffix} files are not read; unpack or convert it to text or JSON lines first")
    found = (kind for suffix, kind in {**_SUFFIXES, _JSON: "jsonl"}.items() if stem.endswith(suffix))
    format = given or next(found, "text")
    if compression and format not in PLAIN_FORMATS:
        raise UserError(f"{path}: {format} files are compressed within; unpack the .{compression} first")
    return format, compression
