from pathlib import Path

import pytest

from gpt2dist.config import presets, read
from gpt2dist.errors import UserError
from tests.support import REPOSITORY


def test_they_are_the_files_of_the_folder_in_the_checkout():
    assert presets.names() == sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yaml"))
    assert presets.DIRECTORY.resolve() == REPOSITORY / "configs"
    assert (REPOSITORY / "gpt2dist/configs").is_symlink(), "one source, no copy"


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_reads_and_has_a_sentence_about_it(name, tmp_path):
    path = tmp_path / f"{name}.yaml"  # by which a run is named
    text = presets.text_for(name, path)
    path.write_text(text)
    config, problems = read(path)
    assert not problems and config == read(REPOSITORY / f"configs/{name}.yaml")[0]
    assert 20 < len(presets.summary(name)) < 160 and presets.summary(name).endswith(".")


@pytest.mark.parametrize("name", presets.names())
def test_nothing_in_it_refers_to_a_file_of_the_checkout(name):
    words = presets.text_for(name, Path("mine.yaml")).split()
    outside = [word for word in words if word.startswith(("configs/", "docs/", "launch/"))]
    assert outside == []
    links = [word.rstrip(".") for word in words if word.startswith(f"{presets.REPOSITORY_URL}/blob/main/")]
    files = [link.removeprefix(f"{presets.REPOSITORY_URL}/blob/main/") for link in links]
    assert all((REPOSITORY / file.rstrip(",;")).is_file() for file in files)


def test_its_commands_name_the_file():
    assert "#   gpt2dist validate new/mine.yaml --world-size 8\n" in presets.text_for(
        "gpt2-124m", Path("new/mine.yaml")
    )


def test_an_unknown_preset():
    with pytest.raises(UserError, match=r"gpt3: no such preset; the presets are finetune-gpt2, gpt2-124m,"):
        presets.path_of("gpt3")
