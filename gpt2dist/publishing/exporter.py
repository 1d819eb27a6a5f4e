"""Export a model: load, write, check and describe it, then publish it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_model
from transformers import GPT2LMHeadModel

from gpt2dist.model.pretrained import load_pretrained, require_vocabulary
from gpt2dist.publishing.agreement import Difference, Reference
from gpt2dist.publishing.output_directory import published
from gpt2dist.tokenizer.tokenizer import Tokenizer

SHARD_SIZE = "50GB"
"""Maximum size of a weights file, as in transformers."""
PIPELINE_TOKENS = 256
"""Number of tokens that a pipeline of transformers adds to a text by default."""


@dataclass(frozen=True)
class Exported:
    """Summary of an exported model.

    Attributes:
        parameters: Number of parameters; a tied embedding counts once.
        dtype: Dtype of the parameters.
        bytes: Size of the safetensors files.
        difference: Difference between logits computed in that dtype and the checkpoint's in fp32.
        tokenizer: The tokenizer.
    """

    parameters: int
    dtype: str
    bytes: int
    difference: Difference
    tokenizer: Tokenizer


def export(
    source: Path,
    output: Path,
    dtype: str,
    card: Callable[[Exported], str],
    on_info: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write a model that transformers can load, and publish it if it matches the source.

    Args:
        source: A model directory.
        output: The directory to create; it must not exist, or be empty.
        dtype: Dtype of the weights: "float32", "bfloat16" or "float16".
        card: Returns the text of README.md.
        on_info: Called with a line of text at the start of each step.

    Raises:
        UserError: The source cannot be read or used in that dtype, or the output directory cannot be created.
        RunError: The files cannot be written, or do not match the source.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_info(f"reading {source}")
    tokenizer = Tokenizer.load(source)
    model = load_pretrained(source, device)
    require_vocabulary(model, tokenizer.vocab_size, source)
    reference = Reference(model, getattr(torch, dtype), source)
    with published(output) as partial:
        on_info(f"writing {dtype}")
        write(partial, model.to(reference.dtype), tokenizer)  # type: ignore[arg-type]  # a wrapped method
        parameters = model.num_parameters()
        del model
        on_info("loading what was written, and comparing its logits with the checkpoint's")
        difference = reference.require(partial)
        size = sum(path.stat().st_size for path in partial.glob("*.safetensors"))
        exported = Exported(parameters, dtype, size, difference, tokenizer)
        (partial / "README.md").write_text(card(exported), encoding="utf-8")
    return exported


def write(directory: Path, model: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    """Write the weights in their current dtype, config.json, generation_config.json and the tokenizer."""
    end = tokenizer.end_of_text_id
    for config in (model.config, model.generation_config):
        # Without a padding token, GPT2ForSequenceClassification accepts only one text at a time.
        config.bos_token_id = config.eos_token_id = config.pad_token_id = end
    # A max_length would make transformers warn at each call with max_new_tokens.
    model.generation_config.max_length = None
    if model.config.n_positions < 2 * PIPELINE_TOKENS:
        # Otherwise, a pipeline runs past the last position of the model.
        model.generation_config.max_new_tokens = model.config.n_positions // 2
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    model.config.save_pretrained(directory)
    model.generation_config.save_pretrained(directory)
    # The model's save_pretrained would import DeepSpeed if accelerate is installed.
    twins = model.all_tied_weights_keys  # the second name of the tied embedding
    save_torch_model(model, directory, max_shard_size=SHARD_SIZE, shared_tensors_to_discard=list(twins))
    tokenizer.save(directory, model.config.n_positions)
    tokenizer.save_gpt2_files(directory)
