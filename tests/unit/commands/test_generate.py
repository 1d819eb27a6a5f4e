import contextlib
import io
import json
import os
import sys
import tty

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.cli import main
from gpt2dist.terminal import printable
from gpt2dist.tokenizer.tokenizer import Tokenizer, train_char

DIVIDER = "\n" + "-" * 80 + "\n"


def save_model(directory, tokenizer, seed=0):
    """A small model with more ids than its tokenizer."""
    torch.manual_seed(seed)
    end = tokenizer.end_of_text_id
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=tokenizer.vocab_size + 20,
            n_positions=32,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=end,
            eos_token_id=end,
        )
    ).save_pretrained(directory)
    tokenizer.save(directory)
    return directory


@pytest.fixture(scope="module")
def model_directory(tiny_dataset, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), Tokenizer.load(tiny_dataset))


@pytest.fixture
def generate(model_directory, capsys):
    def call(*options, model=model_directory):
        code = main(["generate", str(model), *options])
        return code, *capsys.readouterr()

    return call


def texts(out):
    assert out.endswith("\n")
    return out[:-1].split(DIVIDER)


def test_text_goes_to_standard_output_and_a_seed_repeats_it(generate):
    options = ("--prompt", "abc", "--max-new-tokens", "8", "--num-samples", "2", "--seed", "5")
    code, out, err = generate(*options)
    assert (code, err) == (0, "")
    first, second = texts(out)
    assert first.startswith("abc") and second.startswith("abc") and first != second
    assert generate(*options)[1] == out
    assert generate(*options[:-1], "6")[1] != out


def test_each_text_has_a_seed_of_its_own_whatever_is_drawn_with_it(generate, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("abc\nd\nabcdefgh\n")
    options = ("--max-new-tokens", "40", "--json")
    code, out, _ = generate("--prompts-file", str(path), "--num-samples", "2", "--batch-size", "4", *options)
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["prompt"], row["seed"]) for row in rows] == [
        *(("abc", 0), ("abc", 1)),
        *(("d", 2), ("d", 3)),
        *(("abcdefgh", 4), ("abcdefgh", 5)),
    ]
    assert len({row["text"] for row in rows}) == 6
    for row in rows[1::2]:
        alone = generate("--prompt", row["prompt"], "--seed", str(row["seed"]), *options)[1]
        assert json.loads(alone) == row


def test_the_json_says_why_a_text_ends(generate, model_directory, tmp_path):
    row = json.loads(generate("--max-new-tokens", "3", "--temperature", "0", "--json")[1])
    assert (row["prompt"], row["tokens"], row["finish_reason"]) == ("", 3, "length")
    ending = tmp_path / "ending"
    tokenizer = Tokenizer.load(model_directory)
    save_model(ending, tokenizer)
    weights = load_file(ending / "model.safetensors")
    # The last norm is a constant vector, which only the row of end-of-text points along.
    weights["transformer.ln_f.weight"].zero_()
    weights["transformer.ln_f.bias"].fill_(1.0)
    weights["transformer.wte.weight"][tokenizer.end_of_text_id] = 9.0
    save_file(weights, ending / "model.safetensors", metadata={"format": "pt"})
    expected = {"prompt": "abc", "text": "", "tokens": 0, "seed": 0, "finish_reason": "stop"}
    assert json.loads(generate("--prompt", "abc", "--json", model=ending)[1]) == expected
    assert generate("--prompt", "abc", model=ending)[1] == "abc\n"


def test_prompts_come_from_files_and_from_standard_input(generate, tmp_path, monkeypatch):
    whole, lines = tmp_path / "whole.txt", tmp_path / "lines.jsonl"
    whole.write_text("abc\nd\n")
    lines.write_text('{"prompt": "abc\\nd"}\n')
    options = ("--max-new-tokens", "4", "--temperature", "0")
    expected = generate("--prompt", "abc\nd", *options)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\nd\n")))
    assert generate("--prompt-file", "-", *options) == expected
    assert generate("--prompt-file", str(whole), *options) == expected
    assert generate("--prompts-file", str(lines), *options) == expected
    assert [text[0] for text in texts(generate("--prompts-file", str(whole), *options)[1])] == ["a", "d"]


def test_a_text_may_outgrow_the_context(generate):
    row = json.loads(generate("--prompt", "abc " * 40, "--max-new-tokens", "90", "--seed", "1", "--json")[1])
    assert row["tokens"] == 90


@pytest.mark.parametrize("options", [[], ["--num-samples", "3", "--batch-size", "1"]], ids=len)
def test_a_terminal_shows_the_text_that_a_file_gets_as_it_is_drawn(
    generate, model_directory, monkeypatch, options
):
    options = ["--prompt", "é", "--max-new-tokens", "40", "--temperature", "5", *options]
    expected = generate(*options)[1]
    assert "\ufffd" in expected  # the model knows no UTF-8
    ours, theirs = os.openpty()
    tty.setraw(theirs)  # which would write "\r\n"
    with open(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Recorder(terminal))
        assert main(["generate", str(model_directory), *options]) == 0
        parts = sys.stdout.parts
    # The text has control characters by chance, which a terminal gets escaped.
    assert read_to_the_end(ours).decode() == printable(expected) != expected
    assert len(parts) > 20 and "".join(parts) == printable(expected)


def read_to_the_end(terminal):
    """What was written to a terminal whose other end is closed; it comes in pieces."""
    content = b""
    with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as file:
        while piece := file.read(1 << 16):
            content += piece
    return content


class Recorder:
    """A file that keeps what is written, piece by piece."""

    def __init__(self, file):
        self.file, self.parts = file, []

    def write(self, text):
        self.parts.append(text)
        return self.file.write(text)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def broken(model_directory, tmp_path):
    directory = save_model(tmp_path / "broken", Tokenizer.load(model_directory))
    weights = load_file(directory / "model.safetensors")
    weights["transformer.h.1.ln_1.bias"][0] = torch.nan
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_a_model_of_infinite_numbers_is_refused(generate, broken):
    code, out, err = generate(model=broken)
    assert (code, out) == (2, "")
    assert f"{broken}: the model's logits are not finite; use another checkpoint" in err


def test_a_prompt_that_is_no_utf8_is_refused(generate):
    code, out, err = generate("--prompt", "caf\udce9", "--max-new-tokens", "1")
    assert (code, out) == (2, "")
    assert "--prompt 'caf\\udce9': not UTF-8; convert it, or put it into a file" in err


@pytest.mark.parametrize(
    ("options", "source"),
    [(["--prompt", "café"], "--prompt"), (["--prompts-file", "lines.txt"], "lines.txt, line 2")],
)
def test_a_character_that_the_tokenizer_lacks_is_named_with_its_prompt(
    generate, tmp_path, monkeypatch, options, source
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.txt").write_text("cafe\ncafé\n")
    code, out, err = generate(*options, model=save_model(tmp_path / "model", train_char(["cafe"])))
    assert (code, out) == (2, "")
    assert f"generate: {source}: " in err and "'é' (U+00E9) is not in this character-level tokenizer" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["--temperature", "-1"], "--temperature must be 0 (greedy) or between 0.01 and 100"),
        (["--temperature", "nan"], "--temperature must be 0 (greedy) or between 0.01 and 100"),
        (["--temperature", "1e-9"], "--temperature must be 0 (greedy) or between 0.01 and 100"),
        (["--top-k", "-1"], "--top-k must be 0 (all) or more"),
        (["--top-p", "0"], "--top-p must be above 0 and at most 1"),
        (["--repetition-penalty", "0"], "--repetition-penalty must be between 0.01 and 100"),
        (["--seed", "-1"], "--seed must be 0 or more, and less than 2⁶³"),
        (["--num-samples", "0"], "--num-samples must be at least 1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--top-p", "2", "--top-k", "-2"], "--top-k must be 0 (all) or more; --top-p must be above"),
        (["--prompt-file", "/nowhere"], "/nowhere: cannot be read (No such file or directory)"),
        (["--prompts-file", "/nowhere"], "/nowhere: cannot be read (No such file or directory)"),
    ],
)
def test_wrong_input_is_told_at_once(generate, options, message):
    code, out, err = generate(*options)
    assert (code, out) == (2, "")
    assert message in err


def test_prompts_come_from_one_place(generate, capsys):
    with pytest.raises(SystemExit) as exit_:
        generate("--prompt", "a", "--prompts-file", "b")
    assert exit_.value.code == 2
    assert "argument --prompts-file: not allowed with argument --prompt" in capsys.readouterr().err
