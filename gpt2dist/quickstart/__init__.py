"""The whole pipeline on real text, in minutes: `gpt2dist quickstart`."""
