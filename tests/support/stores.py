"""Checkpoint stores without a trainer: ranks that are threads, and a state that one process holds."""

import pickle
import threading
from dataclasses import dataclass, field

import torch

from gpt2dist.checkpoint.parts import PART_BYTES, PartBytes
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.store import CheckpointStore
from gpt2dist.checkpoint.whole_state import Unpartitioned
from gpt2dist.distributed.world import World
from gpt2dist.model.gpt2 import LanguageModel, named_parameters
from gpt2dist.model.huggingface import write_huggingface_config
from gpt2dist.model.shape import Shape

SHAPE = Shape(n_layer=2, n_head=2, n_embd=16, context_length=8, vocab_size=50)


CPU = torch.device("cpu")

SMALL = PartBytes(1000, 10**6)
"""With it, each of a few ranks writes weights and state, and tensors of the state are cut."""


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread."""

    board: dict = field(default_factory=dict)
    meet: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def all(self, flag):
        return all(self.gather(flag))

    def gather(self, value):
        self.board[self.rank] = value
        self.meet.wait(60)
        values = [self.board[rank] for rank in range(self.size)]
        self.meet.wait(60)
        return values

    def from_main(self, value):
        found = self.gather(value)[0]
        return value if self.is_main else pickle.loads(pickle.dumps(found))  # a process gets a copy, too

    def exchange(self, sent, sent_sizes, received, received_sizes):
        offers = self.gather(sent.split(sent_sizes))
        received.copy_(torch.cat([offer[self.rank] for offer in offers]))
        assert [len(offer[self.rank]) for offer in offers] == received_sizes
        self.gather(None)  # nobody changes what another one still copies


class ModelState(Unpartitioned):
    """The whole state of a model on one process; its moments are multiples of the weights."""

    def __init__(self, shape=SHAPE, seed=0):
        self.model = LanguageModel(shape, end_of_text_id=0, seed=seed)
        self.parameters = dict(named_parameters(self.model))
        self.loaded = {}

    def shape_of(self, name):
        return self.parameters[name].shape

    def state_names(self, name):
        return "exp_avg", "exp_avg_sq"

    def gather(self, name):
        whole = self.parameters[name].detach()
        return {"param": whole, "exp_avg": 2 * whole, "exp_avg_sq": 3 * whole}

    def restore(self, name, readers):
        shape = self.shape_of(name)
        self.loaded[name] = {key: read(0, shape.numel()).view(shape) for key, read in readers.items()}

    def materialise(self, updates, restarted=None):
        pass

    def link(self):
        pass

    def refresh(self):
        pass


ORDER = {
    "run.seed": 0,
    "batch.global_batch_size": 1,
    "data.sequence_length": 8,
    "data.stride": 8,
    "data.loss_on": "all",
    "data.document_boundaries": "pack",
}


def trainer_state(step):
    return TrainerState(step, 0, 0, step, True, 0.1, {}, {}, 1.0, [], "t", ORDER, 1, 0, "fp32")


def store_of(directory, world, keep_last=2, keep_every=None, part_bytes=PART_BYTES, shape=SHAPE):
    def write_model_files(path):
        write_huggingface_config(path, shape, 0, 0.0)

    return CheckpointStore(
        directory, world, keep_last, keep_every, shape.vocab_size, write_model_files, None, part_bytes
    )


def names(directory):
    return sorted(path.name for path in directory.iterdir())
