"""Corpus → shards → windows → batches. Rank and world size are plain integers here."""
