"""Load a tokenizer for new data. It must keep the text and always produce the same ids."""

import os

from gpt2dist.errors import UserError
from gpt2dist.tokenizer.tokenizer import CONFIG_NAME, FILE_NAME, Tokenizer


def choose_tokenizer(source: str | os.PathLike[str], lossy: bool = False) -> Tokenizer:
    """Load a tokenizer for new data. `Tokenizer.load` also loads those that this function rejects.

    Args:
        source: As for `Tokenizer.load`.
        lossy: Whether to accept a tokenizer that may lose some of the text.

    Raises:
        UserError: As for `Tokenizer.load`; or the tokenizer loses text, skips merges at random, cannot encode
            unknown text, or produces its end-of-text token from ordinary text.
    """
    tokenizer = Tokenizer.load(source)
    if tokenizer.losses and not lossy:
        raise UserError(
            f"{tokenizer.origin}: may lose some of the text, since {'; '.join(tokenizer.losses)}. To use it "
            "anyway, add --lossy: the dataset and its results will record it. To keep every byte, create a "
            "tokenizer with `gpt2dist tokenizer train` or `gpt2dist tokenizer import`"
        )
    if tokenizer.dropout:
        raise UserError(
            f"{tokenizer.origin}: skips merges at random (dropout {tokenizer.dropout}), so the same text gets "
            f'different tokens each time; set "dropout" to null in the model of {FILE_NAME}'
        )
    if tokenizer.losses and tokenizer.unknown_id is None and tokenizer.model != "BPE":
        raise UserError(
            f"{tokenizer.origin}: its {tokenizer.model} model has no token for unknown text, so it cannot encode "
            "such text; use a tokenizer that has one"
        )
    also = _also_stands_for(tokenizer)
    if also:
        raise UserError(
            f"{tokenizer.origin}: its end-of-text token {tokenizer.end_of_text!r} also represents {also}, which "
            f"would end documents; name a special token as eos_token in {CONFIG_NAME}"
        )
    return tokenizer


def _also_stands_for(tokenizer: Tokenizer) -> str:
    """Return which kind of text the end-of-text token represents too; empty if none."""
    if tokenizer.losses and tokenizer.unknown_id == tokenizer.end_of_text_id:
        return "unknown text"
    return "ordinary text" if tokenizer.ends_in_text else ""
