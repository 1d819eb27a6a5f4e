"""Settings for choosing the next token."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, in the order in which transformers applies them.

    Attributes:
        max_new_tokens: Maximum number of tokens to add.
        repetition_penalty: Makes tokens less likely that the text already has; 1 disables it (Keskar et al. 2019,
            4.1).
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Keeps only the k most likely tokens; 0 keeps all (Fan et al. 2018).
        top_p: Keeps only the most likely tokens whose probabilities add up to p; 1 keeps all (Holtzman et al.
            2020).
    """

    max_new_tokens: int = 64
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
