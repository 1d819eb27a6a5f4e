"""What the name of a file says about its content."""

from gpt2dist.errors import UserError

COMPRESSIONS = ("gz", "zst", "xz", "bz2")
PLAIN_FORMATS = ("text", "jsonl", "csv", "tsv")
"""Formats that can be compressed as a whole."""
FORMATS = (*PLAIN_FORMATS, "parquet", "arrow")

HUB_PREFIX = "datasets:"
"""What the names of datasets on the Hugging Face hub begin with here."""

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
"""Lines of JSON as a rule, but in a directory with text of what is no text: taken by name only."""
_UNREADABLE = (
    *(".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".z"),
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
"""What is taken from a directory where no suffixes are named."""


def no_file_in_directory(name: str, suffixes: tuple[str, ...]) -> str:
    """Why a directory gives nothing."""
    wanted = "a suffix that is read" if suffixes == DEFAULT_SUFFIXES else " ".join(suffixes)
    return (
        f"{name}: no file in this directory ends in {wanted}; "
        "--suffix .xyz takes others, a glob such as 'DIR/**/*.xyz' takes all that it matches"
    )


def format_of(path: str, given: str | None = None) -> tuple[str, str]:
    """Format and compression of a file, by its name; text where that says nothing.

    Args:
        path: Its path or URL.
        given: The format, where the user says it; the name then says the compression alone.

    Raises:
        UserError: Such files are not read.
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
