"""A model for others: files that transformers loads, compared with the checkpoint, and a model card."""
