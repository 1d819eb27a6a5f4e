"""Chunk size of the chunked loss. Does not import torch, so that `validate` is instant."""

LOGITS_PER_CHUNK = 2**25
"""Number of logits that `chunked_nll` holds at a time: 128 MiB in fp32. Half or twice this is slower on CPUs."""
ROWS_MULTIPLE = 128
"""Divisor of the number of tokens in a chunk, for efficient use of matrix units."""


def chunk_rows(vocab_rows: int) -> int:
    """Return the number of tokens per chunk of `chunked_nll`, for an output layer with `vocab_rows` rows."""
    return max(1, LOGITS_PER_CHUNK // vocab_rows // ROWS_MULTIPLE) * ROWS_MULTIPLE
