"""Reader of parquet and Arrow files.

pyarrow always reads a cell whole, but a long cell is yielded in parts. A record batch of an Arrow file is read
whole too, unless the file is local and uncompressed, in which case it is memory-mapped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise, repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpt2dist.corpus import files
from gpt2dist.corpus.documents import Item, Items, Piece, Reading, Rejected, Source
from gpt2dist.corpus.readers.cells import document, spread
from gpt2dist.corpus.readers.fields import no_column, no_string, require_one
from gpt2dist.corpus.storage import damaged, is_url, open_file
from gpt2dist.errors import UserError

_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
"""Mark at the end of an Arrow stream."""
BATCH_BYTES, MOST_ROWS = 4 << 20, 512
"""Approximate bytes and maximum rows per batch."""

_AS_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}
TEXT_TYPES = (*_AS_BYTES, *_AS_BYTES.values())  # some programs write text as binary


def cut_parquet(source: Source, size: int) -> list[Piece]:
    """Cut a parquet file between row groups."""
    with _parquet(source.location) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    return cut_units(source, size, [sum(_column_bytes(group)) for group in groups])


def cut_arrow(source: Source, size: int) -> list[Piece]:
    """Cut an Arrow file between record batches. A stream has no index of its batches and stays whole."""
    with _arrow(source.location) as stored:
        return cut_units(source, size, [1] * getattr(_reader(stored), "num_record_batches", 1))


def read_parquet(piece: Piece, reading: Reading) -> Items:
    """Read the rows of some row groups."""
    with _parquet(piece.path) as file:
        column = TextColumn(file.schema_arrow, reading.text_field, piece.path)
        numbers = range(piece.start, min(piece.end, file.num_row_groups))
        groups = [file.metadata.row_group(number) for number in numbers]
        rows = sum(group.num_rows for group in groups)
        leaf = [file.schema.column(i).path for i in range(len(file.schema))].index(reading.text_field)
        bytes_there = sum(group.column(leaf).total_uncompressed_size for group in groups)
        batch_size = rows_at_once(bytes_there, rows)
        sizes, before = spread(piece.size, rows), 0
        for batch in file.iter_batches(batch_size, list(numbers), [reading.text_field], use_threads=False):
            yield from column.rows(batch.column(column.name), before, sizes)
            before += batch.num_rows
        if before != rows:
            raise pa.ArrowInvalid(f"it has {before} rows, its metadata says {rows}")
        return rows


def read_arrow(piece: Piece, reading: Reading) -> Items:
    """Read the rows of some record batches of a file, or of a whole stream."""
    rows = owed = 0
    with _arrow(piece.path) as stored:
        schema = _reader(stored).schema
        column = TextColumn(schema, reading.text_field, piece.path)
        reader = _reader(stored, included_fields=[schema.names.index(column.name)], use_threads=False)
        if isinstance(reader, pa.RecordBatchFileReader):
            numbers = range(piece.start, min(piece.end, reader.num_record_batches))
            batches = zip(map(reader.get_batch, numbers), spread(piece.size, len(numbers)), strict=True)
        else:
            batches = zip(reader, _progress(stored), strict=False)
        for batch, size in batches:
            owed += size  # the rows of the next batch account for one without rows
            yield from column.rows(batch.column(column.name), rows, spread(owed, batch.num_rows))
            rows += batch.num_rows
            owed = 0 if batch.num_rows else owed
        if not isinstance(reader, pa.RecordBatchFileReader):
            _check_end(stored)
    return rows


class TextColumn:
    """The text column of a table, or the text field of a struct column.

    Args:
        schema: Schema of the table.
        name: Name of the column. Dots refer to struct columns, but a column with the whole dotted name wins.
        path: Name of the table in error messages.

    Attributes:
        name: The top-level column that contains the text.

    Raises:
        UserError: The column does not exist, or its type is not text.
    """

    def __init__(self, schema: pa.Schema, name: str, path: str):
        self.name, *self._fields = [name] if name in schema.names else name.split(".")
        self._reason = no_string(name, "null")
        fields = schema
        for key in (self.name, *self._fields):
            names = getattr(fields, "names", ())
            if key not in names:
                raise no_column(path, name, schema.names)
            require_one(path, key, names)
            fields = fields.field(names.index(key)).type
        self._dictionary = self._values = None  # of the last batch, with the values as bytes
        kind = fields.value_type if pa.types.is_dictionary(fields) else fields
        if kind not in TEXT_TYPES:
            raise UserError(f"{path}: column {name!r} is {kind}, not text; choose another with --text-field")

    def rows(self, array: pa.Array, before: int, sizes: Iterator[int]) -> Iterator[Item]:
        """Yield the documents in the rows of the column.

        Args:
            array: The column's values, [rows].
            before: Number of rows of the piece that precede these.
            sizes: Bytes that each row accounts for; one number is consumed per row.
        """
        array = self._texts(array)
        if len(array) == 0:
            return
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset).tolist()
        view = memoryview(data or b"")
        valid = array.is_valid().to_pylist() if array.null_count else repeat(True)
        rows = zip(pairwise(bounds), valid, sizes, strict=False)
        for line, ((start, end), there, size) in enumerate(rows, before + 1):
            yield document(view[start:end], line, size) if there else Rejected(line, -1, size, self._reason)

    def _texts(self, array: pa.Array) -> pa.LargeBinaryArray:
        """Return the texts in the rows of the column, after checks that pyarrow omits when it reads a file.

        Raises:
            pa.ArrowInvalid: A length, offset, index or number of nulls is wrong.
        """
        array.validate()
        if self._fields:
            array = pc.struct_field(array, self._fields)
        if not pa.types.is_dictionary(array.type):
            return _checked_bytes(array).cast(pa.large_binary())  # zero-copy for the bytes of strings
        if self._dictionary is None or not _same_memory(array.dictionary, self._dictionary):
            self._dictionary = array.dictionary
            self._values = _checked_bytes(self._dictionary)
        array.indices.validate(full=True)
        array = pa.DictionaryArray.from_arrays(array.indices, self._values)  # checks the bounds
        return array.dictionary_decode().cast(pa.large_binary())


def _checked_bytes(array: pa.Array) -> pa.Array:
    """Return texts as bytes, whose offsets are checked. A check of strings would refuse broken UTF-8 too."""
    array = array.view(_AS_BYTES.get(array.type, array.type))
    array.validate(full=True)
    return array


def _same_memory(one: pa.Array, other: pa.Array) -> bool:
    """Return whether two arrays, which must both be in use, are the same, without comparing their values."""

    def place(array: pa.Array) -> list[Any]:
        return [len(array), array.offset, *(buffer and buffer.address for buffer in array.buffers())]

    return place(one) == place(other)


def rows_at_once(size: int, rows: int) -> int:
    """Return the number of rows per batch for `rows` rows that take `size` bytes."""
    return max(1, min(MOST_ROWS, BATCH_BYTES * rows // max(size, 1)))


def cut_units(source: Source, size: int, weights: Sequence[int]) -> list[Piece]:
    """Cut a source between its units, whose sizes are proportional to `weights`."""
    total = sum(weights)
    if total == 0:
        return [Piece(source.location, source.format, source.compression, 0, source.size, source.size)]
    starts = [source.size * before // total for before in accumulate(weights, initial=0)]
    bounds = [0]
    for unit in range(1, len(weights)):
        if starts[unit + 1] - starts[bounds[-1]] > size:
            bounds.append(unit)
    bounds.append(len(weights))
    return [
        Piece(source.location, source.format, source.compression, start, end, starts[end] - starts[start])
        for start, end in pairwise(bounds)
    ]


@contextmanager
def _parquet(path: str) -> Iterator[pq.ParquetFile]:
    with open_file(path) as stored, _checked(path, "parquet"):
        # Without a buffer pyarrow reads a column whole; with pre_buffer, a row group.
        yield pq.ParquetFile(
            stored, buffer_size=files.BLOCK_BYTES, pre_buffer=False, page_checksum_verification=True
        )


@contextmanager
def _arrow(path: str) -> Iterator[pa.NativeFile]:
    with _checked(path, "Arrow"):
        stored = pa.PythonFile(open_file(path), mode="r") if is_url(path) else pa.memory_map(path)
        with stored:
            yield stored


def _reader(stored: pa.NativeFile, **options: Any) -> Any:
    """Open a reader for an Arrow file or stream, whichever it is."""
    stored.seek(0)
    is_file = stored.read(6) == b"ARROW1"
    stored.seek(0)
    return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(stored, options=pa.ipc.IpcReadOptions(**options))


def check_stream(path: str) -> None:
    """Check that an Arrow stream is complete, without reading its texts.

    Raises:
        UserError: It is damaged, lacks its end, or is followed by other bytes.
    """
    with _arrow(path) as stored:
        for _ in _reader(stored):
            pass
        _check_end(stored)


def _check_end(stored: pa.NativeFile) -> None:
    """Check that a stream which was read to its end is complete. pyarrow accepts one without its end mark.

    Raises:
        pa.ArrowInvalid: The stream does not end with its mark, or other bytes follow it.
    """
    end = stored.tell()
    if end < stored.size():
        raise pa.ArrowInvalid(
            f"{stored.size() - end} bytes follow the end of its stream, such as a second stream"
        )
    stored.seek(0)
    mark = _STREAM_END if stored.read(4) == _STREAM_END[:4] else _STREAM_END[4:]  # before Arrow 0.15
    stored.seek(end - len(mark))
    if stored.read(len(mark)) != mark:
        raise pa.ArrowInvalid("its end is missing: it was cut short, or its writer was not closed")


@contextmanager
def _checked(path: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise damaged(path, kind, error) from None


def _column_bytes(group: Any) -> Iterator[int]:
    return (group.column(number).total_compressed_size for number in range(group.num_columns))


def _progress(stored: pa.NativeFile) -> Iterator[int]:
    """Yield the bytes read since the previous number."""
    before = 0
    while True:
        before, taken = stored.tell(), stored.tell() - before
        yield taken
