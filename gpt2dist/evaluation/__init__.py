"""Evaluation of models on held-out text."""

from gpt2dist.evaluation.evaluate import EvaluationConfig, evaluate
from gpt2dist.evaluation.held_out_text import HeldOut, read_texts
from gpt2dist.evaluation.lambada import lambada

__all__ = ["EvaluationConfig", "HeldOut", "evaluate", "lambada", "read_texts"]
