"""docs/reference/configuration.md is what gpt2dist/config/schema.py says."""

import os

from gpt2dist.config.describe import Key, describe
from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs/reference/configuration.md"
HEAD = """\
# Configuration

A YAML file of sections describes a run. Any key can also be set on the command line, after the file:
`gpt2dist train run.yaml optimizer.lr=3e-4 data.train.0.path=data/books`. Values are YAML. `N` in a name is the
number of an item in a list, counted from 0. A key without a value has its default.

`gpt2dist config KEY` explains a key, and `gpt2dist validate FILE` checks a file. An editor with YAML support
completes and checks a file whose first line is `# yaml-language-server: $schema=schema.json`, if a copy of
[schema.json](../../configs/schema.json) lies beside it. `gpt2dist config --schema` prints that file. Editors read
YAML 1.2, in which `600_000` and `yes` are text: write `600000` or `6e5`, and `true`. gpt2dist reads both.

This page is generated from [gpt2dist/config/schema.py](../../gpt2dist/config/schema.py).
"""


def page() -> str:
    return "\n".join([HEAD, *sections(describe())])


def sections(key: Key) -> list[str]:
    """The lines of a section, then of those inside."""
    listed = [each for each in key.keys if each.default]
    lines = [f"## {key.name}\n\n{key.description}\n"] if key.name else ["## Outside of the sections\n"]
    if listed:
        lines += [
            "| key | type | default | limits | description |",
            "|---|---|---|---|---|",
            *map(row, listed),
            "",
        ]
    for each in key.keys:
        lines += sections(each) if each.keys else []
    return lines


def row(key: Key) -> str:
    default = key.default if key.default in ("not set", "required") else f"`{key.default}`"
    cells = (f"`{key.name}`", key.type, default, key.limits, key.description)
    assert not any("|" in cell for cell in cells), key.name
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def test_the_page_shows_every_key():
    """GPT2DIST_UPDATE_DOCS=1 writes it."""
    if os.environ.get("GPT2DIST_UPDATE_DOCS"):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page()
    for link in ("../../configs/schema.json", "../../gpt2dist/config/schema.py"):
        assert (PAGE.parent / link).is_file()
