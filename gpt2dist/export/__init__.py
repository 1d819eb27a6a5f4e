"""A model for others: files that transformers loads anywhere, checked against the checkpoint, with a model card."""
