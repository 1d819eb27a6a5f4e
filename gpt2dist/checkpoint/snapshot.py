"""Copy the state of all ranks to host memory, each piece to the rank that will write it.

A rank holds some elements of each parameter and its state, and writes others. What it holds itself it copies
directly. The rest comes in rounds: in each, a rank receives at most a bucket, from all ranks in one exchange.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gpt2dist.checkpoint.parts import CheckpointPart, TensorPiece
from gpt2dist.checkpoint.pinned import HostTensors
from gpt2dist.checkpoint.whole_state import Holdings, WholeState
from gpt2dist.distributed.world import World

BUCKET = 2**24
"""Maximum number of elements that a rank receives in a round: 64 MiB."""


@dataclass(frozen=True)
class Span:
    """Consecutive elements of a piece that come from another rank.

    Attributes:
        piece: The piece.
        begin: First element, in the flattened tensor.
        end: Element after the last one.
    """

    piece: TensorPiece
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.end - self.begin


@dataclass(frozen=True)
class Round:
    """What one rank sends and receives in an exchange.

    Attributes:
        sent: For each rank, the spans for it.
        received: For each rank, the spans that come from it.
    """

    sent: list[list[Span]]
    received: list[list[Span]]


def plan_rounds(
    pieces: Sequence[Sequence[TensorPiece]], held: Holdings, rank: int, bucket: int = BUCKET
) -> Iterator[Round]:
    """Yield the exchanges after which each rank has its pieces. All ranks have the same number of them.

    There are ⌈E / bucket⌉, where E is the largest number of elements that any rank lacks. In each, a rank
    receives at most a bucket and sends at most what it holds. O(pieces of all ranks + ranks × own pieces).

    Args:
        pieces: The pieces of each rank.
        held: Returns which elements of a flattened parameter a rank holds. Two ranks hold the same elements only
            if each rank holds all.
        rank: This rank.
        bucket: Maximum number of elements that a rank receives in a round.
    """
    ranks = range(len(pieces))
    sent: dict[int, list[list[Span]]] = defaultdict(lambda: [[] for _ in ranks])
    received: dict[int, list[list[Span]]] = defaultdict(lambda: [[] for _ in ranks])
    rounds = 0
    for receiver in ranks:
        place = 0
        for span in _lacking(pieces[receiver], held, receiver):
            for number, part in _in_buckets(span, place, bucket):
                rounds = max(rounds, number + 1)
                if receiver != rank:
                    sent[number][receiver] += _common(part, held(span.piece.name, rank))
                else:
                    for sender in ranks:
                        received[number][sender] += _common(part, held(span.piece.name, sender))
            place += span.size
    for number in range(rounds):
        yield Round(sent[number], received[number])


def _lacking(pieces: Sequence[TensorPiece], held: Holdings, rank: int) -> Iterator[Span]:
    """Yield the elements of the pieces that a rank does not hold, in order."""
    for piece in pieces:
        here, needed = held(piece.name, rank), piece.elements
        for begin, end in (
            (needed.start, min(needed.stop, here.start)),
            (max(needed.start, here.stop), needed.stop),
        ):
            if begin < end:
                yield Span(piece, begin, end)


def _in_buckets(span: Span, place: int, bucket: int) -> Iterator[tuple[int, Span]]:
    """Cut a span that begins at `place` of all that a rank receives; yield the number of each part's round."""
    begin = span.begin
    while begin < span.end:
        number, filled = divmod(place + begin - span.begin, bucket)
        end = min(span.end, begin + bucket - filled)
        yield number, Span(span.piece, begin, end)
        begin = end


def _common(span: Span, held: range) -> list[Span]:
    """Return the part of a span that is held, if any."""
    begin, end = max(span.begin, held.start), min(span.end, held.stop)
    return [Span(span.piece, begin, end)] if begin < end else []


class Snapshot:
    """Host memory for the pieces that this rank writes, used again by each save.

    Args:
        world: This rank.
    """

    def __init__(self, world: World):
        self.world = world
        self._pinned = world.device.type == "cuda"
        self._host = HostTensors({})

    def take(self, state: WholeState, parts: Sequence[CheckpointPart]) -> dict[TensorPiece, Tensor]:
        """Copy this rank's pieces of the state to host memory. Collective.

        Besides the copy, a rank needs a bucket for what it receives, and as much as it sends in a round.

        Args:
            state: The state of all ranks.
            parts: The files of the checkpoint.

        Returns:
            The pieces of this rank's files: contiguous fp32 tensors, valid until the next call.
        """
        state.link()
        held = state.holdings(self.world)
        pieces: list[list[TensorPiece]] = [[] for _ in range(self.world.size)]
        for part in parts:
            pieces[part.rank] += part.pieces
        mine = pieces[self.world.rank]
        shapes = {_place(piece): torch.Size(piece.part_shape) for piece in mine}
        if self._host.shapes != shapes:
            self._host = HostTensors(shapes)
        for piece in mine:
            here, needed = held(piece.name, self.world.rank), piece.elements
            for span in _common(Span(piece, needed.start, needed.stop), here):
                self._copy(span, _local(state, span, here))
        self._exchange(state, held, list(plan_rounds(pieces, held, self.world.rank)))
        if self._pinned:
            torch.cuda.synchronize(self.world.device)
        return {piece: self._host.get(_place(piece), self._pinned) for piece in mine}

    def _exchange(self, state: WholeState, held: Holdings, rounds: Sequence[Round]) -> None:
        """Send to each rank what it lacks, and copy what this rank receives."""
        if not rounds:
            return
        new = partial(torch.empty, dtype=torch.float32, device=self.world.device)
        outgoing = new(max(sum(map(_total, each.sent)) for each in rounds))
        incoming = new(max(sum(map(_total, each.received)) for each in rounds))
        for each in rounds:
            sent, received = list(map(_total, each.sent)), list(map(_total, each.received))
            there, here = outgoing[: sum(sent)], incoming[: sum(received)]
            if spans := list(itertools.chain(*each.sent)):
                local = [_local(state, span, held(span.piece.name, self.world.rank)) for span in spans]
                torch.cat([part.to(there.device, there.dtype) for part in local], out=there)
            self.world.exchange(there, sent, here, received)
            spans = list(itertools.chain(*each.received))
            for span, tensor in zip(spans, here.split([span.size for span in spans]), strict=True):
                self._copy(span, tensor)

    def _copy(self, span: Span, tensor: Tensor) -> None:
        """Copy elements to host memory, which is pinned for GPUs so that the copies overlap."""
        whole = self._host.get(_place(span.piece), self._pinned).view(-1)
        first = span.piece.elements.start
        whole[span.begin - first : span.end - first].copy_(tensor, non_blocking=tensor.device.type == "cuda")


def _local(state: WholeState, span: Span, here: range) -> Tensor:
    """Return elements that this rank holds, flat."""
    return state.local(span.piece.name, span.piece.key)[span.begin - here.start : span.end - here.start]


def _place(piece: TensorPiece) -> str:
    """Return a name that weights and state do not share."""
    return f"{piece.key}.{piece.label}"


def _total(spans: Sequence[Span]) -> int:
    return sum(span.size for span in spans)
