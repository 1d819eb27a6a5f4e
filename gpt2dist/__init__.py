"""gpt2dist: raw text to a GPT-2 whose perplexity can be trusted, on a laptop or on many GPUs."""

__version__ = "0.1.0"
