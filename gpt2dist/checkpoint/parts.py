"""Plan the files of a checkpoint: which rank writes which rows of which tensor into which file.

The plan is a pure function of the shapes and the number of ranks. A file has 256 MiB to 5 GB, or less if the
checkpoint is small. Weights are whole tensors, so that other programs can read them. The optimizer's state is cut
between rows where that gives the ranks equal work.
"""

import dataclasses
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

ELEMENT = 4
"""Bytes of an element: fp32."""


class PartBytes(NamedTuple):
    """Limits of a file's size, in bytes.

    A file is smaller if it is the only one of its kind, and larger if it has a single weight.
    """

    smallest: int = 256 * 2**20
    largest: int = 5 * 10**9


PART_BYTES = PartBytes()


@dataclass(frozen=True)
class TensorPiece:
    """Consecutive rows of a tensor, which lie in one file.

    Attributes:
        key: `param` for weights, or the name of the state tensor.
        name: Name of the parameter.
        shape: Shape of the whole tensor as saved.
        begin: First row.
        end: Row after the last one.
    """

    key: str
    name: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def label(self) -> str:
        """Name in the file: NAME, KEY.NAME, or KEY.NAME[BEGIN:END] if only some rows are there."""
        if self.key == "param":
            return self.name
        rows = "" if self.end - self.begin == _rows(self.shape) else f"[{self.begin}:{self.end}]"
        return f"{self.key}.{self.name}{rows}"

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of these rows."""
        return (self.end - self.begin, *self.shape[1:]) if self.shape else ()

    @property
    def elements(self) -> range:
        """Places of the elements in the flattened tensor."""
        width = math.prod(self.shape[1:])
        return range(self.begin * width, self.end * width)

    @property
    def bytes(self) -> int:
        """Size of these rows."""
        return ELEMENT * len(self.elements)


@dataclass(frozen=True)
class CheckpointPart:
    """A file of tensors.

    Attributes:
        file: Its name.
        rank: The rank that writes it.
        pieces: Its content, in order.
    """

    file: str
    rank: int
    pieces: tuple[TensorPiece, ...]

    @property
    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(piece.bytes for piece in self.pieces)


def make_parts(
    shapes: Mapping[str, Sequence[int]],
    state_names: Mapping[str, Sequence[str]],
    world_size: int,
    limits: PartBytes = PART_BYTES,
) -> list[CheckpointPart]:
    """Plan the files of a checkpoint. O(n log n) in the tensors, the ranks and the files.

    With few bytes, few ranks write. No rank writes more than the mean of all ranks by more than the largest
    weight and four times the smallest part.

    Args:
        shapes: Parameter → shape as saved.
        state_names: Parameter → names of its state tensors, which have its shape.
        world_size: Number of ranks.
        limits: Sizes of the files.

    Returns:
        The files of weights, then those of state. There is at least one of each.
    """
    weights = {name: TensorPiece("param", name, tuple(shape), 0, _rows(shape)) for name, shape in shapes.items()}
    state = [
        TensorPiece(key, name, piece.shape, 0, piece.end)
        for name, piece in weights.items()
        for key in state_names[name]
    ]
    sizes = {name: piece.bytes for name, piece in weights.items()}
    writers = max(1, min(sum(sizes.values()) // limits.smallest, world_size))
    dealt = deal(sizes, writers)
    loads = [sum(sizes[name] for name in names) for names in dealt] + [0] * (world_size - len(dealt))
    shares = _level(loads, sum(piece.bytes for piece in state), limits.smallest)

    used = {*range(len(dealt)), *shares}
    rank_of = _ranks({slot: loads[slot] + shares.get(slot, 0) for slot in used}, world_size)
    model = [
        (rank_of[slot], tuple(weights[name] for name in shapes if name in part))
        for slot, names in enumerate(dealt)
        for part in _within({name: sizes[name] for name in names}, limits.largest)
    ]
    lengths = [
        (rank_of[slot], share / count)
        for slot, share in shares.items()
        for count in [max(1, math.ceil(share / limits.largest))]
        for _ in range(count)
    ]
    cut = list(zip((rank for rank, _ in lengths), _cut(state, [size for _, size in lengths]), strict=True))
    optimizer = [(rank, pieces) for rank, pieces in cut if pieces] or cut[:1]
    return [*_named("model", model), *_named("optimizer", optimizer)]


def deal(sizes: Mapping[str, int], parts: int) -> list[set[str]]:
    """Deal items to at most `parts` parts of about the same total size, the largest items first.

    Args:
        sizes: Name → size, in elements or bytes.
        parts: Maximum number of parts.

    Returns:
        Non-empty sets of names; the same on every rank.
    """
    dealt: list[set[str]] = [set() for _ in range(min(parts, len(sizes)))]
    lightest = [(0, number) for number in range(len(dealt))]  # a heap
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        load, number = lightest[0]
        dealt[number].add(name)
        heapq.heapreplace(lightest, (load + sizes[name], number))
    return dealt


def index(parts: Sequence[CheckpointPart]) -> dict[str, Any]:
    """Return the content of model.safetensors.index.json, which maps each weight to its file."""
    model = [part for part in parts if part.file.startswith("model-")]
    return {
        "metadata": {"total_size": sum(part.bytes for part in model)},
        "weight_map": {piece.name: part.file for part in model for piece in part.pieces},
    }


def _rows(shape: Sequence[int]) -> int:
    return shape[0] if shape else 1


def _level(loads: Sequence[int], total: int, smallest: int) -> dict[int, float]:
    """Share out `total` bytes so that the highest load is as low as possible and no share is below `smallest`.

    A single share may be smaller. The least loaded slots are filled up to a common level. One more slot lowers
    the level and all shares.

    Returns:
        Slot → its share, by ascending slot.
    """
    order = sorted(range(len(loads)), key=lambda slot: (loads[slot], slot))
    filled, level, below = 1, float(loads[order[0]] + total), loads[order[0]]
    for count, slot in enumerate(order[1:], 2):
        below += loads[slot]
        lower = (total + below) / count
        if lower - loads[slot] < smallest:
            break
        filled, level = count, lower
    return {slot: level - loads[slot] for slot in sorted(order[:filled])}


def _ranks(loads: Mapping[int, float], world_size: int) -> dict[int, int]:
    """Spread the slots that write evenly over all ranks, and so over the hosts.

    Rank 0 gets the smallest load, or none, because it also writes the small files and commits.
    """
    slots = sorted(loads, key=lambda slot: (-loads[slot], slot))
    return {slot: world_size - 1 - place * world_size // len(slots) for place, slot in enumerate(slots)}


def _within(sizes: Mapping[str, int], largest: int) -> list[set[str]]:
    """Deal tensors to as few files as keep each within `largest`, unless it has a single tensor."""
    for count in itertools.count(max(1, math.ceil(sum(sizes.values()) / largest))):
        files = deal(sizes, count)
        if all(len(names) == 1 or sum(sizes[name] for name in names) <= largest for names in files):
            return files
    raise AssertionError("unreachable: one tensor per file is always accepted")


def _cut(pieces: Sequence[TensorPiece], lengths: Sequence[float]) -> Iterator[tuple[TensorPiece, ...]]:
    """Cut a sequence of whole tensors between rows into parts of about these lengths in bytes."""
    left = iter(pieces)
    piece, done, end = next(left, None), 0, 0.0
    for number, length in enumerate(lengths, 1):
        end += length
        part = []
        while piece:
            row = piece.bytes // max(1, piece.end - piece.begin)
            fits = piece.end if number == len(lengths) or not row else piece.begin + round((end - done) / row)
            taken = dataclasses.replace(piece, end=min(piece.end, max(piece.begin, fits)))
            if taken.end == piece.end:
                part.append(taken)
                done, piece = done + taken.bytes, next(left, None)
                continue
            if taken.end > taken.begin:
                part.append(taken)
                done, piece = done + taken.bytes, dataclasses.replace(piece, begin=taken.end)
            break
        yield tuple(part)


def _named(kind: str, files: Sequence[tuple[int, tuple[TensorPiece, ...]]]) -> list[CheckpointPart]:
    """Name the files, numbered in the order of the ranks that write them."""
    return [
        CheckpointPart(f"{kind}-{number:05d}-of-{len(files):05d}.safetensors", rank, pieces)
        for number, (rank, pieces) in enumerate(sorted(files, key=lambda file: file[0]), 1)
    ]
