"""Import BERT's vocabulary file, vocab.txt, which GPT2-Chinese uses too."""

import os
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gpt2dist.errors import UserError
from gpt2dist.tokenizer.tokenizer import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
END_OF_TEXT = "[SEP]"


def import_bert(vocab: str | os.PathLike[str]) -> Tokenizer:
    """Import a WordPiece vocabulary with the settings of transformers' BertTokenizer, which lowercases text.

    Each Chinese character is a word. [SEP] ends a document.

    Args:
        vocab: vocab.txt, one token per line.

    Raises:
        UserError: The file is missing, not UTF-8, names a token twice, or has no [UNK] or [SEP].
    """
    try:
        names = Path(vocab).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{vocab}: cannot be read as a vocabulary ({error}); give BERT's vocab.txt") from None
    names = [name.removesuffix("\r") for name in names]
    if names[-1] == "":
        names.pop()
    numbers = {name: number for number, name in enumerate(names)}
    missing = [name for name in ("[UNK]", END_OF_TEXT) if name not in numbers]
    if missing:
        raise UserError(
            f"{vocab}: has no {missing[0]}, so it is not BERT's vocab.txt; import GPT-2's encoder.json together "
            "with --merges vocab.bpe"
        )
    if len(numbers) != len(names):
        twice = next(name for number, name in enumerate(names) if numbers[name] != number)
        raise UserError(f"{vocab}: lists {twice!r} twice, so its ids are ambiguous; correct the file")
    backend = tokenizers.Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens([name for name in SPECIAL if name in numbers])
    return Tokenizer(backend, END_OF_TEXT, origin=str(vocab))
