"""Fixtures for all tests. The parent of forked ranks must not start threads: one torch thread, set first."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import REPOSITORY

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import numpy as np
import pytest

from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.megatron_format import ShardWriter

# A shell lets what it starts in the background ignore Ctrl-C; what tests start and interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# No deadlines: tests run beside others, on cores that are busy.
hypothesis.settings.register_profile("default", deadline=None)
# `make nightly` looks at more examples of each property than a commit can wait for.
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

gc.disable()  # until the tests are imported, with a million objects, none of which is garbage


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes test, whole jobs go first, the longest at once: while they wait, others compute."""
    longest = ("test_slurm.py", "test_two_nodes.py")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (item.path.name not in longest, item.path.parent.name != "end_to_end"))


def find_shared_data() -> Path | None:
    """The directory with GPT-2's vocabulary and real texts, which the project does not commit."""
    named = os.environ.get("GPT2DIST_TEST_DATA")
    candidates = [Path(named)] if named else [REPOSITORY.parent / "shared" / "data"]
    return next((path for path in candidates if (path / "encoder.json").is_file()), None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """GPT-2's encoder.json and vocab.bpe, tinyshakespeare.txt, wikitext2.test.raw; skips where absent."""
    found = find_shared_data()
    if found is None:
        pytest.skip("GPT-2's vocabulary and the reference texts are not here (set GPT2DIST_TEST_DATA)")
    return found


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """What a verb sets for its process ends with the test that called it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Makes dataset directories of counting tokens: `make_dataset(train=[5000, 300], val=[90])`."""

    def make(
        name: str = "dataset", vocab_size: int = 50257, tokenizer: str = "a" * 64, **splits: list[int]
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        records = []
        for split, sizes in splits.items():
            ids = np.arange(sum(sizes)) % vocab_size
            for number, tokens in enumerate(np.split(ids, np.cumsum(sizes)[:-1])):
                shard = f"{split}-{number:05}"
                with ShardWriter(directory / shard, np.uint16) as writer:
                    writer.add(tokens, np.array([len(tokens)]))
                record = ShardRecord(shard, split, len(tokens), 1, 4 * len(tokens), len(tokens), writer.sha256)
                records.append(record)
        Manifest(
            tokenizer_fingerprint=tokenizer,
            vocab_size=vocab_size,
            end_of_text_id=vocab_size - 1,
            dtype="uint16",
            options={},
            sources={},
            shards=tuple(records),
        ).save(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset directory of made-up sentences: about 10,000 training tokens, 300 ids, a val split."""
    import random

    from gpt2dist.preprocessing import PreprocessingJob, prepare
    from gpt2dist.tokenizer.tokenizer import train_bpe

    home = tmp_path_factory.mktemp("tiny")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijkl", k=draw.randint(2, 7))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=draw.randint(20, 120))) + "." for _ in range(150)]
    (home / "corpus").mkdir()
    for number, text in enumerate(texts):
        (home / "corpus" / f"{number:03d}.txt").write_text(text)
    train_bpe(texts, 300).save(home / "tokenizer")
    prepare(
        PreprocessingJob((str(home / "corpus"),), str(home / "tokenizer"), home / "dataset", val_fraction=0.1)
    )
    return home / "dataset"
