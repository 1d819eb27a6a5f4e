"""Fixtures for all tests. The parent of forked ranks must not start threads: one torch thread, set first."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY
