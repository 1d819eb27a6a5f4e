"""What a save copies to the host is the state that was set, at every stage."""

import pytest

from tests.support.ranks import run_ranks

SETTINGS = [
    {"zero": {"stage": 0}},
    {"zero": {"stage": 1}},
    {"zero": {"stage": 1}, "precision": "bf16"},
    {"zero": {"stage": 2, "offload_optimizer": "cpu"}},
    {"zero": {"stage": 3}, "precision": "bf16"},
    {"zero": {"stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"}},
    {"zero": {"stage": 1}, "optimizer": {"kind": "muon"}},
]


def compare(settings, bucket):
    """Sets the state to random numbers, and compares the pieces of a snapshot with them."""
    import torch

    from gpt2dist.checkpoint import snapshot
    from gpt2dist.checkpoint.parts import PartBytes, make_parts
    from gpt2dist.config import Config
    from gpt2dist.distributed.world import join
    from gpt2dist.model.gpt2 import LanguageModel
    from gpt2dist.model.shape import Shape
    from gpt2dist.training.deepspeed_config import deepspeed_config
    from gpt2dist.training.engine import Engine

    world = join()
    shape = Shape(2, 2, 18, 9, 51)
    config = Config.model_validate({"batch": {"global_batch_size": world.size}} | settings)
    engine = Engine(LanguageModel(shape, 0), config, deepspeed_config(config, 1, shape.padded_parameters), world)
    state = engine.state
    draw = torch.Generator().manual_seed(1)
    expected = {}
    for name in state.parameters:
        values = {
            key: torch.randn(state.shape_of(name), generator=draw) for key in ("param", *state.state_names(name))
        }
        state.restore(
            name,
            {key: (lambda begin, end, whole=each: whole.flatten()[begin:end]) for key, each in values.items()},
        )
        expected[name] = values
    names = {name: state.state_names(name) for name in state.parameters}
    parts = make_parts({name: state.shape_of(name) for name in names}, names, world.size, PartBytes(1000, 10**6))
    snapshot.plan_rounds.__defaults__ = (bucket,)
    taken = snapshot.Snapshot(world).take(state, parts)
    for piece, tensor in taken.items():
        whole = expected[piece.name][piece.key]
        assert torch.equal(tensor, whole[piece.begin : piece.end]), piece
    return sorted((piece.key, piece.name, piece.begin, piece.end) for piece in taken)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_pieces_of_three_ranks_are_the_state(settings):
    pieces = run_ranks(compare, 3, settings, 1000)
    assert all(pieces) and len({tuple(each) for each in pieces}) == 3
