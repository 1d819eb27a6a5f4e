"""The composition of an export: load, write, check, describe, publish."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_model
from transformers import GPT2LMHeadModel

from gpt2dist.model.find_model import weight_files
from gpt2dist.model.pretrained import load_pretrained, require_vocabulary
from gpt2dist.publishing.agreement import Difference, Reference
from gpt2dist.publishing.output_directory import published
from gpt2dist.tokenizer.tokenizer import Tokenizer

SHARD_SIZE = "50GB"
"""The largest file of weights, as in transformers."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        parameters: How many; a tied embedding counts once.
        dtype: Theirs.
        bytes: Theirs.
        difference: How far logits computed in that dtype are from the checkpoint's in fp32.
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
    """Writes a model that transformers loads, and publishes it if it is the same model.

    Args:
        source: A model directory.
        output: The directory to make; it is not there, or empty.
        dtype: Of the weights: "float32", "bfloat16" or "float16".
        card: Makes the text of README.md.
        on_info: Called with a line about each step of the work.

    Raises:
        UserError: The source cannot be read, or be used in that dtype.
        RunError: What was written is not the source.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_info(f"reading {source}")
    tokenizer = Tokenizer.load(source)
    weight_files(source)  # refuses pickles
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
    """Writes weights in the dtype that they have, config.json, generation_config.json and the tokenizer."""
    end = tokenizer.end_of_text_id
    for config in (model.config, model.generation_config):
        # Without a padding token GPT2ForSequenceClassification takes one text at a time.
        config.bos_token_id = config.eos_token_id = config.pad_token_id = end
    # Else generation walks off the positions that the model knows.
    model.generation_config.max_length = model.config.n_positions
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    model.config.save_pretrained(directory)
    model.generation_config.save_pretrained(directory)
    # Not the model's save_pretrained: where accelerate is installed, that imports DeepSpeed.
    twins = model.all_tied_weights_keys  # of the tied embedding, its second name
    save_torch_model(model, directory, max_shard_size=SHARD_SIZE, shared_tensors_to_discard=list(twins))
    tokenizer.save(directory, model.config.n_positions)
