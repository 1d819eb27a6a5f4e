"""Compare preprocessing, loading and start-up with peers and limits, as ratios within one run.

    python tools/bench/data.py [preprocess] [loader] [start-up] --tokenizer DIR [--corpus F.jsonl]
        [--megatron CHECKOUT] [--datatrove-python PYTHON]

Peers are optional. For Megatron-LM, give a checkout that can run in this environment. For datatrove, give the
Python of an environment that has it. Both are slow, so they process only a part of the corpus, and the comparison
is in megabytes per second. Without --corpus, a corpus is made from the code and documentation of this Python
installation.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import torch

from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.megatron_format import HEADER, MAGIC, VERSION
from gpt2dist.loading.batch_ramp import BatchSizes
from gpt2dist.loading.loader import Loader, MicroBatcher, MixtureBatcher
from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.loading.windows import Windows
from gpt2dist.tokenizer.encoder import FastEncoder
from gpt2dist.tokenizer.tokenizer import Tokenizer

WORKERS = 2
BATCH_BYTES = 1 << 20
WINDOW, BATCH = 1025, 64
SECTIONS = ("preprocess", "loader", "start-up")

DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
if __name__ == "__main__":
    folder, tokenizer, output, end = sys.argv[1:]
    steps = [JsonlReader(folder), DocumentTokenizer(output, tokenizer, eos_token=end, shuffle_documents=False)]
    LocalPipelineExecutor(steps, tasks=2, workers=2, logging_dir=output + "-logs").run()
"""

ENCODE_FILE = """
import sys
from pathlib import Path
from gigatoken.gigatoken_rs import JsonlFileSource, load_hf_json
load_hf_json(Path(sys.argv[1]).read_bytes()).encode_files(JsonlFileSource([sys.argv[2]]), parallel=False)
"""


def main() -> None:
    """Measure the chosen sections and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="one or more of " + ", ".join(SECTIONS))
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory with tokenizer.json")
    parser.add_argument("--corpus", type=Path, help="JSON lines with the field text")
    parser.add_argument(
        "--megabytes", type=float, default=400, help="size of the generated corpus; default: %(default)s"
    )
    parser.add_argument(
        "--peer-megabytes",
        type=float,
        default=20,
        help="part of the corpus that slow peers process; default: %(default)s",
    )
    parser.add_argument("--megatron", type=Path, help="a checkout of Megatron-LM")
    parser.add_argument("--datatrove-python", type=Path, help="Python of an environment with datatrove")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--tokens", type=float, default=1e8, help="tokens in the loader's file; default: %(default)s"
    )
    parser.add_argument(
        "--documents",
        type=float,
        default=1e7,
        help="documents in the start-up test, of 1,000 tokens each; default: %(default)s",
    )
    args = parser.parse_args()
    chosen = args.sections or SECTIONS
    if set(chosen) - set(SECTIONS):
        parser.error(f"the sections are {', '.join(SECTIONS)}")
    with tempfile.TemporaryDirectory() as folder:
        for section in chosen:
            print(f"── {section}", flush=True)
            {"preprocess": preprocessing, "loader": loading, "start-up": starting}[section](args, Path(folder))


def say(name: str, text: str) -> None:
    """Print a line of results."""
    print(f"{name:>34}  {text}", flush=True)


def clocked(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


# --- Preprocessing ----------------------------------------------------------------------------------------


def preprocessing(args: argparse.Namespace, home: Path) -> None:
    """Compare `gpt2dist preprocess` with two workers to Megatron-LM, datatrove and its own encoder."""
    corpus = args.corpus or make_corpus(home / "corpus.jsonl", args.megabytes * 1e6)
    quarter = head(corpus, home / "quarter.jsonl", corpus.stat().st_size / 4)
    size, small = corpus.stat().st_size, quarter.stat().st_size
    say("corpus", f"{size / 1e6:,.0f} MB of jsonl")
    halves = [home / "half-0.jsonl", home / "half-1.jsonl"]
    halve(corpus, halves)
    walls, rates, encoder, reader = [], [], [], []
    for _ in range(args.rounds):  # alternate, so that other load on the machine affects all of them
        wall, memory = ours(args, corpus, home)
        walls.append(wall)
        rates.append((size - small) / (wall - ours(args, quarter, home)[0]))
        encoder.append(size / encoder_alone(args.tokenizer, halves))
        reader.append(size / clocked(lambda: gigatoken_files(args.tokenizer, halves, home)))
    whole, steady = size / statistics.median(walls), statistics.median(rates)
    alone, files = statistics.median(encoder), statistics.median(reader)
    say("gpt2dist, 2 workers", f"{whole / 1e6:.1f} MB/s, start-up and all; {memory}")
    say("without its start-up", f"{steady / 1e6:.1f} MB/s, by the difference of two sizes")
    say(
        "encoder alone, texts in memory",
        f"{alone / 1e6:.1f} MB/s; gpt2dist / encoder = {whole / alone:.2f}, "
        f"without start-up {steady / alone:.2f}",
    )
    say("gigatoken reading the files", f"{files / 1e6:.1f} MB/s; gpt2dist / gigatoken = {whole / files:.2f}")
    # The peers encode the text "<|endoftext|>" within a document as the special token, and gpt2dist does not. The
    # tokens would differ, so such documents are excluded.
    end = Tokenizer.load(args.tokenizer).end_of_text.encode()
    part = head(corpus, home / "part" / "part.jsonl", args.peer_megabytes * 1e6, without=end)
    for name, peer in (("Megatron-LM", megatron), ("datatrove", datatrove)):
        rate = peer(args, part, home)
        if rate is None:
            say(name, "not given, skipped")
        else:
            text = f"{rate / 1e6:.2f} MB/s on {part.stat().st_size / 1e6:.0f} MB"
            say(f"{name}, 2 workers", f"{text}; gpt2dist / {name} = {whole / rate:.1f}")


def make_corpus(path: Path, size: float) -> Path:
    """Write code and documentation of the standard library and installed packages, stopping at `size` bytes."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    suffixes = (".py", ".pyi", ".rst", ".md", ".txt", ".h")
    files = (file for root in roots for file in sorted(root.rglob("*")) if file.suffix in suffixes)
    with open(path, "wb") as out:
        for file in files:
            try:
                out.write(orjson.dumps({"text": file.read_text(encoding="utf-8"), "path": str(file)}) + b"\n")
            except (OSError, UnicodeDecodeError):
                continue
            if out.tell() >= size:
                break
    return path


def head(corpus: Path, path: Path, size: float, without: bytes = b"\n\n") -> Path:
    """Copy the first lines that do not contain `without`, up to the line that reaches `size` bytes."""
    path.parent.mkdir(exist_ok=True)
    with open(corpus, "rb") as file, open(path, "wb") as out:
        while out.tell() < size and (line := file.readline()):
            if without not in line:
                out.write(line)
    return path


def halve(corpus: Path, paths: list[Path]) -> None:
    """Distribute the lines alternately to two files."""
    with open(corpus, "rb") as file, open(paths[0], "wb") as one, open(paths[1], "wb") as two:
        for line, out in zip(file, itertools.cycle((one, two)), strict=False):
            out.write(line)


def ours(args: argparse.Namespace, corpus: Path, home: Path) -> tuple[float, str]:
    """Return the seconds of the whole command, and its message about memory."""
    output = home / "ours"
    subprocess.run(["rm", "-rf", str(output)], check=True)
    command = [sys.executable, "-m", "gpt2dist", "preprocess", str(corpus), "--tokenizer", str(args.tokenizer)]
    command += ["--output", str(output), "--workers", str(WORKERS)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    return seconds, re.search(r"peak memory of a worker: .*", done.stderr)[0]


def encoder_alone(tokenizer: Path, halves: list[Path]) -> float:
    """Return the seconds that two processes need to encode texts in memory: those of the slower one."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(WORKERS)
    with context.Pool(WORKERS, _share_barrier, (barrier,)) as pool:
        return max(pool.starmap(_encode, [(tokenizer, half) for half in halves], chunksize=1))


def _share_barrier(barrier) -> None:
    global _barrier
    _barrier = barrier


def _encode(tokenizer: Path, half: Path) -> float:
    encoder = FastEncoder(Tokenizer.load(tokenizer), memory=1 << 40)
    with open(half, "rb") as file:
        batches = list(_batches(orjson.loads(line)["text"].encode() for line in file))
    encoder.encode_batch([b"begin"])
    _barrier.wait()
    return clocked(lambda: [encoder.encode_batch(batch) for batch in batches])


def _batches(texts: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def gigatoken_files(tokenizer: Path, halves: list[Path], home: Path) -> None:
    """Run gigatoken's own reader and encoder in two processes, on half of the file each."""
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    (home / "plain.json").write_text(json.dumps(content | {"added_tokens": []}))
    command = [sys.executable, "-c", ENCODE_FILE, str(home / "plain.json")]
    processes = [subprocess.Popen([*command, str(half)]) for half in halves]
    codes = [process.wait() for process in processes]
    assert codes == [0] * WORKERS


def megatron(args: argparse.Namespace, part: Path, home: Path) -> float | None:
    """Return the bytes per second of Megatron-LM's tools/preprocess_data.py, excluding its imports."""
    if not args.megatron:
        return None
    output = home / "megatron"
    command = [sys.executable, str(args.megatron / "tools/preprocess_data.py"), "--input", str(part)]
    command += ["--output-prefix", str(output), "--workers", str(WORKERS), "--append-eod"]
    command += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(args.tokenizer)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    imports = clocked(
        lambda: subprocess.run([*command, "--help"], capture_output=True, env=environment, check=True)
    )
    seconds = clocked(lambda: subprocess.run(command, capture_output=True, env=environment, check=True))
    same_tokens(args, part, home, Path(f"{output}_text_document.bin"))
    return part.stat().st_size / (seconds - imports)


def same_tokens(args: argparse.Namespace, part: Path, home: Path, theirs: Path) -> None:
    """Report whether gpt2dist and Megatron-LM produced the same tokens from the same text."""
    ours(args, part, home)
    mine = b"".join(path.read_bytes() for path in sorted((home / "ours").glob("train-*.bin")))
    say("tokens of Megatron-LM", "the same, byte by byte" if mine == theirs.read_bytes() else "OTHERS than ours")


def datatrove(args: argparse.Namespace, part: Path, home: Path) -> float | None:
    """Return the bytes per second of datatrove's DocumentTokenizer, excluding its imports."""
    if not args.datatrove_python:
        return None
    folder = home / "datatrove-in"
    folder.mkdir()
    halve(part, [folder / "0.jsonl", folder / "1.jsonl"])
    (home / "run_datatrove.py").write_text(DATATROVE)
    end = Tokenizer.load(args.tokenizer).end_of_text
    command = [str(args.datatrove_python), str(home / "run_datatrove.py"), str(folder)]
    command += [str(args.tokenizer / "tokenizer.json"), str(home / "datatrove-out"), end]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return part.stat().st_size / float(
        re.search(r"Total Runtime: ([\d.]+) seconds", done.stderr + done.stdout)[1]
    )


# --- Loading ----------------------------------------------------------------------------------------------


class Slices(torch.utils.data.Dataset):
    """Typical dataset for a DataLoader: an item is a slice of a memory map, converted to int64."""

    def __init__(self, path: Path, windows: int):
        self._tokens = np.memmap(path, np.uint16, "r")
        self._windows = windows

    def __len__(self) -> int:
        """Return the number of windows."""
        return self._windows

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return a window: int64 [WINDOW]."""
        start = index * (WINDOW - 1)
        return torch.from_numpy(self._tokens[start : start + WINDOW].astype(np.int64))


def loading(args: argparse.Namespace, home: Path) -> None:
    """Compare the loader with torch's DataLoader, on windows in the page cache."""
    path, count = home / "tokens.bin", int(args.tokens)
    np.random.default_rng(0).integers(0, 50257, count).astype(np.uint16).tofile(path)
    tokens = np.asarray(np.memmap(path, np.uint16, "r"))
    tokens.max()  # read all tokens into the page cache
    best = {}
    for shards in (1, 10):
        stream = TokenStream(np.array_split(tokens, shards))
        read = read_time(stream, args.rounds)
        best[shards] = loader_time(stream, args.rounds)
        say(
            f"{shards} shard{'s' * (shards > 1)}",
            f"{read:.2f} µs a window read, {best[shards]:.2f} by the loader",
        )
    windows = (count - 1) // (WINDOW - 1)
    theirs = min(dataloader_time(Slices(path, windows), workers, args.rounds) for workers in (0, WORKERS))
    say(
        "torch DataLoader over np.memmap",
        f"{theirs:.2f} µs a window; gpt2dist is {theirs / best[1]:.1f} × as fast",
    )


def read_time(stream: TokenStream, rounds: int) -> float:
    """Return the microseconds per window of reads at random starts."""
    draw = np.random.default_rng(1)
    starts = [draw.integers(0, len(stream) - WINDOW, BATCH) for _ in range(500)]

    def reads() -> None:
        for batch in starts:
            stream.read(batch, WINDOW)

    return min(clocked(reads) for _ in range(rounds + 1)) / (len(starts) * BATCH) * 1e6


def loader_time(stream: TokenStream, rounds: int) -> float:
    """Return the microseconds per window of the whole loader, including its thread."""
    windows = Windows(len(stream), WINDOW - 1, WINDOW - 1)
    batcher = MixtureBatcher([MicroBatcher(stream, windows, "new")])
    loader = Loader(Mixture([len(windows)], [1], 1), batcher, lambda batch: batch, BatchSizes(BATCH), BATCH, 0, 1)
    steps = 1000
    times = [clocked(lambda: [next(loader) for _ in range(steps)]) for _ in range(rounds + 1)]
    loader.close()
    return min(times) / (steps * BATCH) * 1e6


def dataloader_time(dataset: Slices, workers: int, rounds: int) -> float:
    """Return the microseconds per window of torch's DataLoader, shuffled, excluding its start."""
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=workers)
    steps = min(300, len(dataset) // BATCH - 20)
    times = []
    for _ in range(rounds):
        batches = iter(loader)
        for _ in range(10):
            next(batches)
        times.append(clocked(lambda batches=batches: [next(batches) for _ in range(steps)]))
        del batches
    return min(times) / (steps * BATCH) * 1e6


# --- Start-up ---------------------------------------------------------------------------------------------


def starting(args: argparse.Namespace, home: Path) -> None:
    """Compare the time to open a dataset and draw the first batch with that of Megatron's indices."""
    documents, length = int(args.documents), 1000
    say("dataset", f"{documents * length:.1e} tokens in {documents:,} documents (sparse files)")
    directory = sparse_dataset(home / "sparse", documents, length)
    mine = min(clocked(lambda: first_batch(directory)) for _ in range(args.rounds))
    say("gpt2dist", f"{mine:.3f} s to the first batch; no index")
    theirs, how = megatron_indices(documents, length)
    say("Megatron's indices", f"{theirs:.2f} s ({how}); gpt2dist is {theirs / mine:,.0f} × as fast")


def sparse_dataset(directory: Path, documents: int, length: int) -> Path:
    """Write a dataset of sparse token files, in shards of at most 100,000 documents, and return its directory."""
    directory.mkdir()
    per_shard, records = 100_000, []
    for number, first in enumerate(range(0, documents, per_shard)):
        count = min(per_shard, documents - first)
        name, size = f"train-{number:05d}", count * length
        with open(directory / f"{name}.bin", "wb") as file:
            file.truncate(2 * size)
        with open(directory / f"{name}.idx", "wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, 8, count, count + 1))
            file.write(np.full(count, length, "<i4").tobytes())
            file.write((np.arange(count) * 2 * length).astype("<i8").tobytes())
            file.write(np.arange(count + 1, dtype="<i8").tobytes())
        records.append(ShardRecord(name, "train", size, count, size, size, {"bin": "", "idx": ""}))
    Manifest("t", 50257, 50256, "uint16", {}, {}, tuple(records)).save(directory)
    return directory


def first_batch(directory: Path) -> None:
    """Open a dataset and draw one batch."""
    stream = TokenStream.open(Manifest.load(directory), "train", shuffled=True)
    windows = Windows(len(stream), 1024, 1024)
    batcher = MixtureBatcher([MicroBatcher(stream, windows, "new")])
    loader = Loader(Mixture([len(windows)], [1], 1), batcher, lambda batch: batch, BatchSizes(BATCH), BATCH, 0, 1)
    next(loader)
    loader.close()


def megatron_indices(documents: int, length: int) -> tuple[float, str]:
    """Return the seconds to build the document, sample and shuffle indices of an epoch, and the method."""
    sizes = np.full(documents, length, np.int32)
    random = np.random.RandomState(0)
    try:
        from megatron.core.datasets import helpers
    except ImportError:
        helpers = None

    def build() -> None:
        document_index = np.arange(documents, dtype=np.int32)
        random.shuffle(document_index)
        if helpers:
            samples = helpers.build_sample_idx(sizes, document_index, 1024, 1, documents * length)
        else:
            ends = np.cumsum(sizes[document_index], dtype=np.int64)
            samples = np.searchsorted(ends, np.arange(0, ends[-1], 1024), side="right")
        shuffle_index = np.arange(len(samples), dtype=np.uint32)
        random.shuffle(shuffle_index)

    return clocked(
        build
    ), "its own C++ helpers" if helpers else "an equivalent in NumPy: megatron-core is not here"


if __name__ == "__main__":
    main()
