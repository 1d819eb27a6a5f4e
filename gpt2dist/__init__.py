"""gpt2dist: train a GPT-2 from raw text, on a laptop or on many GPUs, and measure its perplexity reliably."""

__version__ = "0.1.0"
