"""Small tokenizers with the settings of well-known ones, as their tokenizer.json files have them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

END_OF_TEXT = "<|endoftext|>"
TEXTS = (
    "The quick brown fox jumps over the lazy dog. The theory of the thing, and then another thing.",
    "def f(x):\n    return x  # twice\r\n\n\n  indented\t it's we'll I'D",
    "naïve café, cafe\u0301, Ångström \u212b, 日本語の文, 今天天气很好。 123 4567 😀",
    "plain words here and there, here and there again " * 3,
)
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def saved(backend: tokenizers.Tokenizer, directory: Path, eos_token: str | None = None, **changes: Any) -> Path:
    """Write tokenizer.json with top-level changes, and tokenizer_config.json if there is an `eos_token`."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.loads(backend.to_str()) | changes
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    if eos_token:
        (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos_token}), encoding="utf-8")
    return directory


def gpt_neox(texts: Iterable[str] = TEXTS, size: int = 320) -> tokenizers.Tokenizer:
    """GPT-NeoX and Pythia: NFC, end-of-text at id 0, and ordinary added tokens of 2 to 24 spaces."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True, normalized=False) for name in (END_OF_TEXT, "<|padding|>")]
    _train_bytes(backend, texts, size, special)
    backend.add_tokens([AddedToken(" " * count, normalized=True) for count in range(24, 1, -1)])
    return backend


def qwen2(texts: Iterable[str] = TEXTS, size: int = 320) -> tokenizers.Tokenizer:
    """Qwen2: NFC, its own rule for words, special tokens of chats behind the vocabulary, and ordinary ones."""
    backend = tokenizers.Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    backend.normalizer = normalizers.NFC()
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    _train_bytes(backend, texts, size, [])
    names = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("<tool_call>", "</tool_call>")])
    return backend


def bert(texts: Iterable[str] = TEXTS, size: int = 200) -> tokenizers.Tokenizer:
    """BERT: WordPiece, Chinese by characters; GPT2-Chinese takes it, and [SEP] ends a document."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    _template(backend, "[CLS] $A [SEP]", ["[CLS]", "[SEP]"])
    return backend


def t5(texts: Iterable[str] = TEXTS, size: int = 120) -> tokenizers.Tokenizer:
    """T5: Unigram over words that begin with ▁; </s> is a piece of the vocabulary and ends a document."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    _template(backend, "$A </s>", ["</s>"])
    return backend


def llama2(words: Sequence[str] = ("▁the", "▁and", "▁here", "▁there")) -> tokenizers.Tokenizer:
    """Llama 2: BPE whose normalizer puts ▁ for spaces, with bytes for what the vocabulary lacks."""
    letters = ["▁", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in names:
                merges.append((word[: end - 1], word[end - 1]))
                names.append(word[:end])
    vocabulary = {name: number for number, name in enumerate(names)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    _template(backend, "<s> $A", ["<s>"])
    return backend


def roberta(texts: Iterable[str] = TEXTS, size: int = 300) -> tokenizers.Tokenizer:
    """RoBERTa's kind of byte-level BPE: it puts a space before each text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    _train_bytes(backend, texts, size, [AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return backend


def _train_bytes(
    backend: tokenizers.Tokenizer, texts: Iterable[str], size: int, special: Sequence[AddedToken]
) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(special),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)


def _template(backend: tokenizers.Tokenizer, single: str, names: Sequence[str]) -> None:
    special = [(name, backend.token_to_id(name)) for name in names]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
