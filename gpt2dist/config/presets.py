"""The run configurations that come with gpt2dist: the files of configs/, which the package contains."""

import re
from collections.abc import Iterator
from pathlib import Path

from gpt2dist.errors import UserError

DIRECTORY = Path(__file__).parents[1] / "configs"
"""In a checkout, a link to the top-level folder; in a wheel, a copy of it."""
SCHEMA = "schema.json"
REPOSITORY_URL = "https://github.com/gpt2dist/gpt2dist"


def names() -> list[str]:
    """Return the names of the presets, sorted: gpt2-124m for configs/gpt2-124m.yaml."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def path_of(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        UserError: There is no such preset.
    """
    known = names()
    if name not in known:
        raise UserError(f"{name}: no such preset; the presets are {', '.join(known)}")
    return DIRECTORY / f"{name}.yaml"


def summary(name: str) -> str:
    """Return the first sentence of the comment at the top of a preset."""
    comment = " ".join(_comment(path_of(name).read_text(encoding="utf-8")))
    return re.split(r"(?<=\.)\s", comment, maxsplit=1)[0]


def text_for(name: str, path: Path) -> str:
    """Return a preset as it is written to `path`.

    Its own commands name `path`. Other files of the repository are named by their address there.

    Raises:
        UserError: There is no such preset.
    """
    text = path_of(name).read_text(encoding="utf-8")
    text = text.replace(f"configs/{name}.yaml", str(path))
    return re.sub(
        r"(?<![\w/.])(?:configs|docs|launch)/[\w/-]+\.(?:md|sh|yaml)\b",
        rf"{REPOSITORY_URL}/blob/main/\g<0>",
        text,
    )


def schema() -> str:
    """Return the JSON Schema that the first line of each preset names, for editors."""
    return (DIRECTORY / SCHEMA).read_text(encoding="utf-8")


def _comment(text: str) -> Iterator[str]:
    """Yield the lines of the first comment, without that for editors."""
    for line in text.splitlines():
        if not line.startswith("# ") and line != "#":
            return
        if not line.startswith("# yaml-language-server"):
            yield line[2:]
