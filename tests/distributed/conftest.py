from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def second_dataset(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other sentences under the tokenizer of the tiny dataset: a quarter of its size."""
    from gpt2dist.preprocessing import PreprocessingJob, prepare

    home = tmp_path_factory.mktemp("second")
    texts = sorted((tiny_dataset.parent / "corpus").iterdir())[::4]
    (home / "corpus").mkdir()
    for path in texts:
        (home / "corpus" / path.name).write_text(path.read_text()[::-1])
    prepare(PreprocessingJob((str(home / "corpus"),), str(tiny_dataset), home / "second"))
    return home / "second"


@pytest.fixture(scope="session")
def odd_dataset(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of the tiny dataset with a vocabulary of 515."""
    from gpt2dist.preprocessing import PreprocessingJob, prepare
    from gpt2dist.tokenizer.tokenizer import train_bpe

    home, corpus = tmp_path_factory.mktemp("odd"), tiny_dataset.parent / "corpus"
    texts = [path.read_text() for path in sorted(corpus.iterdir())]
    tokenizer = train_bpe([*texts, *(text[::-1] for text in texts)], 515)  # one way alone has too few words
    assert tokenizer.vocab_size == 515
    tokenizer.save(home / "tokenizer")
    prepare(PreprocessingJob((str(corpus),), str(home / "tokenizer"), home / "dataset"))
    return home / "dataset"
