"""Load the model to evaluate: a replica on every rank, or one partitioned across the ranks."""

from pathlib import Path

from torch import Tensor

from gpt2dist.checkpoint.manifest import require_whole_model
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.scoring import Forward
from gpt2dist.model.find_model import locate
from gpt2dist.tokenizer.tokenizer import Tokenizer


def locate_together(model: str | Path, world: World) -> Path:
    """Return the directory of a model, the same model on all ranks. Collective.

    Args:
        model: A checkpoint, a run directory (its newest checkpoint), a model directory or a hub name.
        world: This rank.

    Raises:
        UserError: The model does not exist, or it is not a GPT-2.
    """
    mine = locate(str(model))
    # Rank 0 decides, since a slower rank could find a newer checkpoint of an active run. The hub's cache may be
    # at another path on another host.
    of_main = world.from_main(mine)
    return of_main if of_main.is_dir() else mine


def load_forward(
    directory: Path, tokenizer: Tokenizer, document_separator_id: int | None, zero_stage: int, world: World
) -> Forward:
    """Load a model for `score_windows`. Collective at ZeRO stage 3.

    Args:
        directory: The model directory.
        tokenizer: The model's tokenizer.
        document_separator_id: The token at which attention and positions restart; None if they never do.
        zero_stage: 3 partitions each parameter across the ranks; 0 gives each rank a replica.
        world: This rank.

    Raises:
        UserError: The stage is another one, the model cannot be loaded, or its vocabulary is smaller than its
            tokenizer's.
    """
    if zero_stage not in (0, 3):
        raise UserError(f"evaluation does not support ZeRO stage {zero_stage}; give 0 or 3")
    # Imported here: a run that evaluates as it trains has its own model, and does not need transformers.
    from gpt2dist.model.onednn import use_onednn
    from gpt2dist.model.pretrained import load_pretrained, require_vocabulary, score

    require_whole_model(directory)
    if zero_stage == 3:
        from gpt2dist.evaluation.zero3_forward import load_partitioned

        model = load_partitioned(directory, world)
    else:
        model = load_pretrained(directory, world.device)
        if world.device.type == "cpu":
            use_onednn(model)
    require_vocabulary(model, tokenizer.vocab_size, directory)

    def forward(tokens: Tensor, counted_from: Tensor, counted_to: Tensor) -> tuple[Tensor, Tensor]:
        device = world.device
        return score(
            model, tokens.to(device), counted_from.to(device), counted_to.to(device), document_separator_id
        )

    return forward
