import bz2
import gzip
import json
import lzma
import random

import pytest
import zstandard

from gpt2dist.corpus import cut, discover, documents, storage
from gpt2dist.errors import UserError

COMPRESS = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,  # as the program zstd does
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def json_lines(count, seed=0):
    words = [f"word{i} " for i in range(1000)]
    generator = random.Random(seed)
    texts = ["".join(generator.choices(words, k=generator.randrange(200))) for _ in range(count)]
    return texts, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.mark.parametrize("compression", COMPRESS)
def test_all_members_and_frames_are_read(tmp_path, read_corpus, compression):
    path = tmp_path / f"a.jsonl.{compression}"
    texts, data = json_lines(3000)
    assert len(data) > 2 << 20
    thirds = [data[: len(data) // 3], data[len(data) // 3 : 1000 + len(data) // 3], data[1000 + len(data) // 3 :]]
    path.write_bytes(b"".join(COMPRESS[compression](third) for third in thirds))
    seen = read_corpus(path, size=1000)
    assert [(document.text, document.line) for document in seen] == list(zip(texts, range(1, 3001), strict=True))
    assert all(data[document.offset :].startswith(b'{"text"') for document in seen)
    assert sum(document.size for document in seen) == path.stat().st_size
    assert max(document.size for document in seen[1:]) < path.stat().st_size / 2  # progress goes on steadily
    assert len(cut(discover([str(path)])[0], 1000)) == 1


@pytest.mark.parametrize("compression", COMPRESS)
def test_damaged_files_are_named(tmp_path, read_corpus, compression):
    path = tmp_path / f"a.txt.{compression}"
    good = COMPRESS[compression](random.Random(0).randbytes(300_000).hex().encode())
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 0xFF]) * 64 + good[middle + 64 :]
    for data in (good[:-20], good[: len(good) // 2], good[:5], good + good[:100], flipped, b"not compressed"):
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=rf"a\.txt\.{compression}: damaged, or not \.{compression} \(.*exclude it"
        ):
            read_corpus(path)


def test_a_frame_that_needs_too_much_memory_is_refused(tmp_path, read_corpus):
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(frame.compress(b"x" * 1000) + frame.flush())
    with pytest.raises(UserError, match=r"a\.txt\.zst: damaged, or not \.zst \(.*memory"):
        read_corpus(tmp_path / "a.txt.zst")


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_long_document_in_a_compressed_file(tmp_path, read_corpus, compression, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 1 << 20)
    path = tmp_path / f"a.csv.{compression}"
    text = "é,😀\n" * (1 << 18)
    path.write_bytes(COMPRESS[compression](f'text\n"{text}"\nshort\n'.encode()))
    seen = read_corpus(path, max_field_lines=1 << 19)
    assert [(document.text, document.long) for document in seen] == [(text, True), ("short", False)]
    assert sum(document.size for document in seen) == path.stat().st_size


def test_a_url_that_cannot_be_opened_leaves_no_file_behind_that_python_closes_later(monkeypatch):
    """From Python 3.13 a traceback is printed for a file that is collected and cannot be closed."""
    made = []
    monkeypatch.setattr(storage, "_RemoteFile", lambda *args: made.append(args))
    with pytest.raises(UserError, match=r"^memory://nowhere/x: cannot be read"):
        storage.open_file("memory://nowhere/x")
    assert made == []
