"""This process among the others: ranks, launchers, and how DeepSpeed is imported."""
