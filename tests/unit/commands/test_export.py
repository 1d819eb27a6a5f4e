import re
import shutil
from collections import namedtuple

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from gpt2dist.checkpoint import manifest
from gpt2dist.cli import main
from gpt2dist.distributed.world import leave
from gpt2dist.publishing import exporter
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.small_models import make_model


@pytest.fixture
def source(tmp_path, tiny_dataset):
    make_model().save_pretrained(tmp_path / "source")
    Tokenizer.load(tiny_dataset).save(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def export(source, tmp_path, capsys):
    def call(*options, checkpoint=source, output=tmp_path / "model"):
        code = main(["export", str(checkpoint), "--output", str(output), *options])
        return code, *capsys.readouterr()

    return call


def test_a_model_is_published_and_what_it_is_is_told(export, tmp_path):
    code, out, err = export("--dtype", "bfloat16", "--license", "mit", "--name", "My model")
    output = tmp_path / "model"
    assert (code, out) == (0, "")
    *_, what, how = err.splitlines()
    assert re.fullmatch(
        rf"gpt2dist export: {output}: 49,312 parameters in bfloat16, 0.1 MB; its logits differ from the "
        r"checkpoint's by 0\.0\d+ of their spread, where rounding explains 0\.\d+",
        what,
    )
    assert how == f'gpt2dist export: load it: transformers.GPT2LMHeadModel.from_pretrained("{output}")'
    card = ModelCard.load(output / "README.md")
    assert card.data.license == "mit" and "# My model\n" in card.content
    assert GPT2LMHeadModel.from_pretrained(output).dtype == torch.bfloat16


def test_without_options_it_is_float32_named_after_its_directory_without_a_license(export, tmp_path):
    assert export()[0] == 0
    card = ModelCard.load(tmp_path / "model/README.md")
    assert card.data.license is None and "# model\n" in card.content
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "model").dtype == torch.float32


def test_the_other_verbs_take_it_as_a_model(export, tmp_path, tiny_dataset, capsys):
    assert export("--dtype", "float16")[0] == 0
    model = str(tmp_path / "model")
    try:
        assert main(["evaluate", model, "--data", str(tiny_dataset), "--json"]) == 0
    finally:
        leave()
    assert '"perplexity"' in capsys.readouterr().out
    assert main(["generate", model, "--prompt", "abc", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith("abc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", " "], "name is empty; give one, or omit it"),
        (["--license", ""], "license is empty; give one, or omit it"),
        (["--results", "nowhere.json"], "nowhere.json: No such file or directory"),
    ],
)
def test_wrong_options(export, tmp_path, options, message):
    code, out, err = export(*options)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "model").exists()


def test_an_unknown_dtype(export):
    with pytest.raises(SystemExit) as ended:
        export("--dtype", "int8")
    assert ended.value.code == 2


def test_a_directory_that_is_taken_is_told_before_the_model_is_looked_for(export, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine").touch()
    code, _, err = export(checkpoint=tmp_path / "nowhere")
    assert code == 2 and "model is not empty; name a new directory" in err
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine"]


def test_a_checkpoint_that_is_none(export, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = export(checkpoint=tmp_path / "empty")
    assert code == 2 and "no model there" in err


def test_a_checkpoint_that_was_changed_is_refused_before_it_is_read(export, tmp_path, source):
    path = source / "model.safetensors"
    (source / "trainer_state.json").write_text("{}")
    (source / "optimizer-00001-of-00001.safetensors").write_bytes(b"moments")
    manifest.write(source, {each.name: manifest.seal(each) for each in source.iterdir()})
    weights = load_file(path)
    weights["transformer.wpe.weight"][0, 0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    code, _, err = export()
    assert code == 2
    assert "not a complete checkpoint: model.safetensors was changed after it was written" in err
    assert not (tmp_path / "model").exists()


def test_a_model_without_its_tokenizer(export, source, tmp_path):
    (source / "tokenizer.json").unlink()
    code, _, err = export()
    assert code == 2 and "tokenizer.json" in err
    assert not (tmp_path / "model").exists()


def test_a_pickle_is_not_read(export, source):
    torch.save({}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    code, _, err = export()
    assert (
        code == 2 and "its weights are a pickle (pytorch_model.bin), which can execute any code and is not" in err
    )


def test_too_full_a_disk(export, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 20_100_000))
    code, _, err = export()
    assert code == 2 and "has 20.1 MB free and the model takes 20.2 MB" in err
    assert export("--dtype", "bfloat16")[0] == 0


def test_a_mismatch_is_a_failure_and_nothing_is_published(export, tmp_path, monkeypatch, source):
    write = exporter.save_torch_model

    def transposes(model, *args, **options):
        with torch.no_grad():
            weight = model.transformer.h[2].attn.c_proj.weight
            weight.copy_(weight.T.clone())
        write(model, *args, **options)

    monkeypatch.setattr(exporter, "save_torch_model", transposes)
    code, _, err = export("--dtype", "float16")
    assert code == 1
    assert f"gpt2dist export: the written files are not {source}: their logits differ by" in err
    assert "transformer.h.2.attn.c_proj.weight differs by up to" in err
    assert err.endswith("nothing was published\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
