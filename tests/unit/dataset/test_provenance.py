"""Damaged listings of where documents came from."""

import json
import shutil

import pytest

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.provenance import StreamDocuments
from gpt2dist.errors import UserError


@pytest.mark.parametrize(
    ("key", "value"),
    [("path", None), ("path", 3), ("format", None), ("format", 3), ("first_line", None), ("first_line", "0")],
)
def test_each_key_of_a_piece_is_required_and_has_its_type(tiny_dataset, tmp_path, key, value):
    directory = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    path = directory / "pieces.jsonl"
    pieces = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del pieces[0][key]
    if value is not None:
        pieces[0][key] = value
    path.write_text("".join(json.dumps(piece) + "\n" for piece in pieces), encoding="utf-8")
    with pytest.raises(UserError, match=rf"pieces\.jsonl.*{key}"):
        StreamDocuments(Manifest.load(directory), "train").between(0, 10)
