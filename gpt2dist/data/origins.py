"""Where each document of a shard came from: `NAME.origins` beside the shard, and `pieces.jsonl` in the dataset.

`NAME.origins` has one little-endian record of 20 bytes per document, in the order of the shard. It names a piece,
that is a line of `pieces.jsonl`, and the place within it:

    {"path": "/corpus/a.jsonl", "format": "jsonl", "first_line": 120934}

The document's line (row of a table, document of a text file with separators) is `first_line` + `line`, 1-based.
Both are apart because a worker that begins in the middle of a file does not know how many lines came before.
"""

import numpy as np

SUFFIX = ".origins"
PIECES_NAME = "pieces.jsonl"

ORIGIN = np.dtype([("piece", "<u4"), ("line", "<i8"), ("offset", "<i8")])
"""`piece` counts the lines of pieces.jsonl from 0, `line` the lines of the piece from 1; `offset` is the first
byte of the document in the (decompressed) file, −1 where the format has none."""
