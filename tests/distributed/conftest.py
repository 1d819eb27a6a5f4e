from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def second_dataset(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other sentences under the tokenizer of the tiny dataset: a quarter of its size."""
    from gpt2dist.data.preprocessing import Job, prepare

    home = tmp_path_factory.mktemp("second")
    texts = sorted((tiny_dataset.parent / "corpus").iterdir())[::4]
    (home / "corpus").mkdir()
    for path in texts:
        (home / "corpus" / path.name).write_text(path.read_text()[::-1])
    prepare(Job((str(home / "corpus"),), str(tiny_dataset), home / "second"))
    return home / "second"
