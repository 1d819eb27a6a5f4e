"""Generate text: `gpt2dist.generate`."""

import os
from collections.abc import Sequence

from gpt2dist.errors import UserError


def generate(
    model: str | os.PathLike[str],
    prompts: str | Sequence[str] = "",
    *,
    num_samples: int = 1,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    batch_size: int = 8,
    quiet: bool = False,
) -> list[str]:
    """Continue prompts with a model, as `gpt2dist generate` does, with the same texts for the same seed.

    Args:
        model: A `Run` (its newest checkpoint), or a checkpoint, a run directory, a model directory or a hub name.
        prompts: One text or several to continue. An empty one starts a new document.
        num_samples: Number of texts for each prompt.
        max_new_tokens: Maximum number of tokens to add. A text may become longer than the context.
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Keeps only the k most likely tokens; 0 keeps all.
        top_p: Keeps only the most likely tokens whose probabilities add up to p; 1 keeps all.
        repetition_penalty: Makes tokens that the text already has less likely; 1 disables it.
        seed: Seed of the first text; the second has `seed` + 1, and so on. A text depends only on its prompt and
            its seed, up to rounding.
        batch_size: Texts to generate at the same time.
        quiet: Whether to show only warnings and errors.

    Returns:
        The text that the model adds, without the prompt: `num_samples` texts for each prompt, in order.

    Raises:
        UserError: The model cannot be loaded, a setting is out of range, or a prompt cannot be encoded.

    Example:
        >>> (text,) = gpt2dist.generate("runs/quickstart", "def main(", max_new_tokens=20, seed=1)
        >>> print("def main(" + text)
    """
    from gpt2dist.checkpoint.manifest import require_whole_model
    from gpt2dist.generation.continuations import continuations, encode_prompts, load_generator, wrong_settings
    from gpt2dist.generation.prompts import Prompt
    from gpt2dist.generation.sampling import Sampling
    from gpt2dist.model.find_model import locate
    from gpt2dist.monitoring.progress import Progress, quietly
    from gpt2dist.tokenizer.tokenizer import Tokenizer

    how = Sampling(max_new_tokens, repetition_penalty, temperature, top_k, top_p)
    if wrong := wrong_settings(how, seed, num_samples, batch_size):
        raise UserError("; ".join(f"{name} {message}" for name, message in wrong.items()))
    directory = locate(os.fspath(model))
    require_whole_model(directory)
    tokenizer = Tokenizer.load(directory)
    given = [prompts] if isinstance(prompts, str) else prompts
    named = [Prompt(text, f"prompt {number}") for number, text in enumerate(given, start=1)]
    encoded = encode_prompts(named, tokenizer, num_samples, seed)
    generator = load_generator(directory, tokenizer)
    texts = []
    with quietly(quiet), Progress("generate", len(encoded), "text", leave=False) as bar:
        for each in continuations(generator, tokenizer, encoded, how, batch_size):
            texts.append(each.text)
            bar.advance()
    return texts
