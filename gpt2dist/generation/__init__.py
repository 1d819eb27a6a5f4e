"""Sampling from a model, and the prompts that it continues."""
