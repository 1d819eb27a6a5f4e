"""How tokens are chosen."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, in the order in which transformers applies it.

    Attributes:
        max_new_tokens: Tokens to add at most.
        repetition_penalty: Makes tokens of the text so far less likely; 1 leaves them (Keskar et al. 2019, 4.1).
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Only the k most likely tokens stay; 0 keeps all (Fan et al. 2018).
        top_p: Only the most likely tokens whose probabilities reach p together stay; 1 keeps all (Holtzman et
            al. 2020).
    """

    max_new_tokens: int = 64
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
