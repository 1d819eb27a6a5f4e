"""Read a tokenizer of the `tokenizers` library from a directory, a file or the hub."""

import os
from pathlib import Path

import orjson
import tokenizers

from gpt2dist import hub, json_files
from gpt2dist.errors import UserError
from gpt2dist.tokenizer import analysis

END_OF_TEXT = "<|endoftext|>"
FILE_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
MAX_BYTES, MAX_IDS = 1 << 30, 1 << 24
"""Maximum size and ids of a tokenizer.json; one with 256,000 tokens has 35 MB."""


def read_source(source: str | os.PathLike[str]) -> tuple[tokenizers.Tokenizer, str, str]:
    """Return a tokenizer, its end-of-text token, and NAME@COMMIT if it is on the hub; see `Tokenizer.load`.

    Raises:
        UserError: The tokenizer does not exist, or it cannot be used.
    """
    path = Path(source) if Path(source).is_file() else Path(source) / FILE_NAME
    if not path.is_file():
        path = _download(str(source)) / FILE_NAME
    try:
        text = json_files.read_text(path, MAX_BYTES)
        content = orjson.loads(text)
        _require_bounded_ids(content)
        backend = tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # The library raises bare Exception; a panic in Rust is not even that.
        raise UserError(f"{path}: not a tokenizer of the tokenizers library ({error})") from None
    _check_added_ids(backend, content, path)
    return backend, _declared_end_of_text(path.parent), hub.source_of(path.parent)


def _check_added_ids(backend: tokenizers.Tokenizer, content: analysis.Content, path: Path) -> None:
    """Check that added tokens have the ids given in the file. The library would renumber them silently."""
    for token in content.get("added_tokens") or ():
        if (given := backend.token_to_id(token["content"])) != token["id"]:
            raise UserError(
                f"{path}: gives the added token {token['content']!r} the id {token['id']}, but the tokenizers "
                f"library assigns {given}: ids must follow those of the vocabulary without gaps; correct the file"
            )


def _download(name: str) -> Path:
    """Return the directory of a tokenizer on the hub, once it is in the cache."""
    path = Path(hub.split_revision(name)[0])
    missing = f"{name}: not a directory with {FILE_NAME}"
    if path.suffix == ".json":
        raise UserError(f"{name}: no such file; name a {FILE_NAME}, or the directory that contains it")
    if (path / "vocab.txt").is_file():
        raise UserError(
            f"{missing}: it has BERT's vocab.txt; `gpt2dist tokenizer import --vocab {name}/vocab.txt` reads it"
        )
    if path.is_absolute() or path.exists() or name.startswith(".") or len(path.parts) > 2:
        raise UserError(
            f"{missing}: it is a path; `gpt2dist tokenizer train` or `import` creates such a directory"
        )
    directory = hub.download(name, (FILE_NAME, CONFIG_NAME), missing)
    if not (directory / FILE_NAME).is_file():
        raise UserError(
            f"{name}: has no {FILE_NAME} on the hub; name another tokenizer, or import its vocabulary files with "
            "`gpt2dist tokenizer import`"
        )
    return directory


def _require_bounded_ids(content: analysis.Content) -> None:
    """Check the ids of a tokenizer.json before the library allocates memory for each id up to the largest.

    Raises:
        ValueError: An id is too large.
    """
    vocabulary = content["model"].get("vocab", {})
    ids = [*vocabulary.values()] if isinstance(vocabulary, dict) else []
    ids += [token["id"] for token in content.get("added_tokens") or ()]
    if ids and max(ids) >= MAX_IDS:
        raise ValueError(f"the id {max(ids)} is beyond {MAX_IDS:,}")


def _declared_end_of_text(directory: Path) -> str:
    """Return the eos_token of tokenizer_config.json, or `END_OF_TEXT` if it declares none."""
    path = directory / CONFIG_NAME
    if not path.exists():
        return END_OF_TEXT
    try:
        declared = json_files.load(path).get("eos_token")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: malformed ({json_files.reason(error)}); copy the tokenizer again") from None
    content = declared.get("content") if isinstance(declared, dict) else declared
    return content if isinstance(content, str) else END_OF_TEXT
