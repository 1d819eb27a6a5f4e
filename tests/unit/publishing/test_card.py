import json
import os
import re
import shutil

import pytest
from huggingface_hub import EvalResult, ModelCard

from gpt2dist.model.find_model import fingerprint
from gpt2dist.publishing.card import model_card
from gpt2dist.publishing.exporter import export
from gpt2dist.publishing.origin import ModelProvenance
from gpt2dist.tokenizer.tokenizer import train_bpe, train_char
from tests.support.small_models import make_model


@pytest.fixture
def publish(tmp_path):
    """Exports with a card: `publish(source)` is the directory."""

    def call(source, results=(), name="tiny words", license=None):
        origin = ModelProvenance.read(source, results)
        output = tmp_path / "published"
        export(source, output, "float32", lambda out: model_card(name, output.name, origin, out, license))
        return output

    return call


def code_of(directory):
    (code,) = re.findall(r"^```python\n(.*?)^```$", (directory / "README.md").read_text(), re.M | re.S)
    return code


def run_code(directory, monkeypatch, capsys):
    """What the card's code prints, run beside the model's directory."""
    monkeypatch.chdir(directory.parent)
    capsys.readouterr()
    exec(compile(code_of(directory), "README.md", "exec"), {})
    return capsys.readouterr().out


def test_the_hub_reads_its_metadata(run, publish, write_result):
    checkpoint = run / "checkpoints/step-00000008"
    wiki = write_result("wikitext", model=fingerprint(checkpoint))
    card = ModelCard.load(publish(checkpoint, [wiki], license="mit") / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "mit")
    assert data.tags == ["gpt2", "gpt2dist", "text-generation"]
    assert data.model_name == "tiny words" and data.base_model is None

    said = json.loads((run / "eval/step-00000008.json").read_text())["val"]
    values = {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert values == {
        ("val", "perplexity"): said["perplexity"],
        ("val", "word_perplexity"): said["word_perplexity"],
        ("val", "lm_eval_word_perplexity"): said["lm_eval_word_perplexity"],
        ("val", "bits_per_byte"): said["bits_per_byte"],
        ("wikitext", "perplexity"): 20.5,
        ("wikitext", "word_perplexity"): 100.25,
        ("wikitext", "lm_eval_word_perplexity"): 90.5,
        ("wikitext", "bits_per_byte"): 1.125,
    }
    last = data.eval_results[-1]
    assert isinstance(last, EvalResult)
    assert (last.task_type, last.dataset_split) == ("text-generation", "test")
    assert last.dataset_args == {"fingerprint": "d" * 64}
    assert last.metric_args == {"sequence_length": 32, "stride": 16, "prefix": "none", "per_document": True}


def test_the_body_tells_data_training_and_scores(run, publish, tiny_dataset):
    checkpoint = run / "checkpoints/step-00000004"
    text = (publish(checkpoint) / "README.md").read_text()
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    said = json.loads((run / "eval/step-00000004.json").read_text())["val"]
    manifest = json.loads((tiny_dataset / "manifest.json").read_text())
    assert state["datasets"][0]["fingerprint"][:12] in text
    assert manifest["tokenizer_fingerprint"][:12] in text
    for line in (
        "A GPT-2 of 36,096 parameters, trained by gpt2dist ",
        "| layers | 2 |",
        "| context | 32 tokens |",
        "| vocabulary | 300 tokens, byte-level BPE, sha256 ",
        "| weights | float32, 0.1 MB |",
        f"| checkpoint | sha256 `{fingerprint(checkpoint)[:12]}` |",
        f"| dataset | sha256 `{state['datasets'][0]['fingerprint'][:12]}` | 1 |",
        "| optimizer steps | 4 |",
        f"| tokens trained on | {state['consumed_tokens']:,} (counting repetitions) |",
        f"| tokens per step | {state['consumed_tokens'] // 4} on average |",
        "| global batch | 8 windows of 32 tokens |",
        "| stride | 12 tokens, loss on new |",
        "| seed | 1337 |",
        "| precision | fp32 |",
        "| processes | 1 with ZeRO stage 1 |",
        "| optimizer | AdamW, β 0.9 and 0.95, ε 1e-08, weight decay 0.1 |",
        "| learning rate | 0.002 |",
        "| schedule: kind | cosine |",
        "| schedule: total steps | 8 |",
        f"| val | {said['perplexity']:,.4f} | {said['bits_per_byte']:.5f} | {said['word_perplexity']:,.4f} | "
        f"{said['lm_eval_word_perplexity']:,.4f} | "
        "sequence length 32, stride 12, document boundaries pack |",
        "trained with | gpt2dist ",
        "torch 2.",
    ):
        assert line in text, line


def test_an_optimizer_of_a_class_is_described_without_importing_it(run, publish):
    """The configuration of a run may be from elsewhere."""
    config = run / "config.yaml"
    text = (
        config.read_text().replace("kind: adamw", "kind: 'evil:Lion'").replace("options: {}", "options: {a: 1}")
    )
    config.write_text(text)
    text = (publish(run / "checkpoints/step-00000008") / "README.md").read_text()
    assert "| optimizer | evil:Lion, a 1 |" in text


def test_fp32_products_in_tf32_are_said(run, publish):
    config = run / "config.yaml"
    said = "| fp32 products | in TF32 where the GPU has it |"
    assert said not in (publish(run / "checkpoints/step-00000008") / "README.md").read_text()
    shutil.rmtree(run.parent.parent / "published")
    config.write_text(config.read_text().replace("allow_tf32: false", "allow_tf32: true"))
    assert said in (publish(run / "checkpoints/step-00000008") / "README.md").read_text()


def test_what_was_changed_at_a_restart_is_said(run, publish):
    """The table has the hyperparameters of the last start."""
    for number, step in ((2, 0), (3, 4), (4, 8)):
        changed = {
            "optimizer.lr": [5e-4, number],
            "data.train.0.path": ["/secret", "/other"],
            "world_size": [1, 2],
        }
        path = run / f"starts/{number:03d}/environment.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"step": step, "changed": changed}))
    text = (publish(run / "checkpoints/step-00000008") / "README.md").read_text()
    assert re.findall(r"\| changed at .*", text) == ["| changed at step 4 | optimizer.lr 5e-4 → 3 |"]
    assert "/secret" not in text


def test_what_a_score_means_is_said_of_its_kind(run, publish, write_result):
    checkpoint = run / "checkpoints/step-00000008"
    words = write_result("words", model=fingerprint(checkpoint), accuracy=0.5)
    text = (publish(checkpoint, [words]) / "README.md").read_text()
    assert "Every token is scored once" in text and "\nOf words, only the last word of each passage is" in text
    for path in (run / "eval").glob("**/*.json"):
        path.unlink()
    shutil.rmtree(checkpoint.parents[3] / "published")
    text = (publish(checkpoint, [words]) / "README.md").read_text()
    assert "Every token is scored once" not in text and "perplexity is exp(Σ nll / passages)." in text


def test_a_card_names_no_place_of_the_machine(run, publish, tiny_dataset, tmp_path):
    text = (publish(run / "checkpoints/step-00000008") / "README.md").read_text()
    secrets = {str(tmp_path), str(tiny_dataset), str(run), os.uname().nodename, str(os.getpid())}
    facts = json.loads((run / "environment.json").read_text())
    secrets |= {facts["host"], facts["platform"]}
    assert not re.search(r"(?<![\w<])/(?:\w+/)+\w+", text)
    assert [secret for secret in secrets if secret in text and len(secret) > 3] == []


def test_the_code_runs(run, publish, monkeypatch, capsys):
    directory = publish(run / "checkpoints/step-00000008")
    assert 'model="published"' in code_of(directory)
    out = run_code(directory, monkeypatch, capsys)
    assert out.startswith("Once upon a time") and len(out) > len("Once upon a time\n")


def test_the_code_runs_where_the_tokenizer_does_not_know_its_letters(save_model, publish, monkeypatch, capsys):
    source = save_model(make_model(vocab_size=8))
    train_char(["abcdefg"]).save(source)
    directory = publish(source)
    assert "a token per character" in (directory / "README.md").read_text()
    assert '"<|endoftext|>"' in code_of(directory)
    assert set(run_code(directory, monkeypatch, capsys).replace("<|endoftext|>", "")) <= set("abcdefg\n")


def test_the_code_runs_where_the_context_is_shorter_than_a_sentence(save_model, publish, monkeypatch, capsys):
    source = save_model(make_model(vocab_size=257, n_positions=8))
    train_bpe(["abc"], 257).save(source)
    directory = publish(source)
    assert '"<|endoftext|>"' in code_of(directory)
    run_code(directory, monkeypatch, capsys)


def test_of_a_model_without_a_run_only_what_is_known_is_said(save_model, publish):
    directory = publish(save_model(make_model()))
    card = ModelCard.load(directory / "README.md")
    assert (card.data.eval_results, card.data.license, card.data.base_model) == (None, None, None)
    text = card.content
    assert "## Training" not in text and "## Evaluation" not in text and "None" not in text
    assert "written by gpt2dist" in text and "trained by" not in text and "trained with" not in text


def test_a_checkpoint_without_its_run_still_tells_its_training(run, tmp_path, publish):
    directory = (run / "checkpoints/step-00000008").rename(tmp_path / "alone")
    text = (publish(directory) / "README.md").read_text()
    assert "| optimizer steps | 8 |" in text and "learning rate" not in text and "trained with" not in text


def test_a_model_of_the_hub_is_named_as_the_base(tmp_path, tiny_dataset, publish, save_model):
    (tmp_path / "models--org--name/snapshots").mkdir(parents=True)
    source = save_model(make_model(), "models--org--name/snapshots/0123abc")
    card = ModelCard.load(publish(source) / "README.md")
    assert card.data.base_model == "org/name"
    assert "It is org/name at revision `0123abc`." in card.content


def test_a_bar_in_a_name_does_not_break_a_table(run, publish, write_result):
    checkpoint = run / "checkpoints/step-00000008"
    path = write_result("a|b", model=fingerprint(checkpoint))
    assert "| a\\|b | 20.5000 |" in (publish(checkpoint, [path]) / "README.md").read_text()
