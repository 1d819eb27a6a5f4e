"""How many tokens the chunked loss takes at a time. Free of torch, so that `validate` is instant."""

LOGITS_PER_CHUNK = 2**25
"""Logits that `chunked_nll` holds at a time: 128 MiB in fp32. Half or twice as many are slower on CPUs."""
ROWS_MULTIPLE = 128
"""Tokens of a chunk are a multiple of it, as matrix units like them."""


def chunk_rows(vocab_rows: int) -> int:
    """Tokens whose logits `chunked_nll` holds at a time, for an output layer with so many rows."""
    return max(1, LOGITS_PER_CHUNK // vocab_rows // ROWS_MULTIPLE) * ROWS_MULTIPLE
