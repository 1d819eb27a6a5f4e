"""The guides cannot rot: their commands parse, and the files that they name exist."""

import re
import shlex
from pathlib import Path

import pytest
from test_readme import blocks

from gpt2dist.cli import build_parser

GUIDES = sorted((Path(__file__).resolve().parent.parent / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_its_commands_parse_and_its_files_exist(guide, repository):
    text = guide.read_text(encoding="utf-8")
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["gpt2dist"] and words[1] != "launch":
                build_parser(words[1]).parse_args(words[1:])
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (guide.parent / name).exists(), name
    for name in re.findall(r"`?((?:tests|tools|configs|gpt2dist)/[\w/.-]+\.(?:py|yaml))", text):
        assert (repository / name).is_file(), name
