"""Bring whole matrices to the ranks that work on them, and the results back to the ranks that hold the weights.

The plan is a pure function of who holds what. Each matrix has one owner. `gather` brings it the fragments that it
lacks, and `scatter` sends its result to all ranks that hold a part of the matrix. Each is one collective, or none
if no rank has anything to send.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gpt2dist.training.optimizers.base import Fragment


@dataclass(frozen=True)
class Transfer:
    """What one rank sends and receives.

    Attributes:
        sent: For each rank, the fragments to send to it, in order.
        received: For each rank, the fragments that come from it, in order.
        is_empty: Whether no rank at all has anything to send.
    """

    sent: tuple[tuple[Fragment, ...], ...]
    received: tuple[tuple[Fragment, ...], ...]
    is_empty: bool


@dataclass(frozen=True)
class ExchangePlan:
    """The work of one rank.

    Attributes:
        owned: Matrices that this rank works on, in order.
        local: Fragments that this rank holds, in order.
        gather: Fragments that go to an owner that lacks them.
        scatter: Fragments of the results that go to those who hold the same fragments of the weights.
    """

    owned: tuple[int, ...]
    local: tuple[Fragment, ...]
    gather: Transfer
    scatter: Transfer


def make_plan(
    sizes: Sequence[int], costs: Sequence[float], fragments: Sequence[Fragment], rank: int, world_size: int
) -> ExchangePlan:
    """Return the plan of one rank. All ranks call it with the same arguments, apart from `rank`.

    Args:
        sizes: Elements of each matrix.
        costs: Work that each matrix takes, in any unit.
        fragments: Who holds what, of all ranks. Together the fragments cover each matrix.
        rank: This rank.
        world_size: Number of ranks.
    """
    ordered = sorted(fragments, key=lambda each: (each.parameter, each.start, each.rank))
    owners = choose_owners(sizes, costs, ordered, world_size)
    complete = {
        each.parameter for each in ordered if each.rank == owners[each.parameter] and _is_whole(each, sizes)
    }
    remote = [each for each in ordered if each.rank != owners[each.parameter]]
    to_owner = [(each.rank, owners[each.parameter], each) for each in remote if each.parameter not in complete]
    from_owner = [(owners[each.parameter], each.rank, each) for each in remote]
    return ExchangePlan(
        owned=tuple(number for number, owner in enumerate(owners) if owner == rank),
        local=tuple(each for each in ordered if each.rank == rank),
        gather=_transfer(to_owner, rank, world_size),
        scatter=_transfer(from_owner, rank, world_size),
    )


def choose_owners(
    sizes: Sequence[int], costs: Sequence[float], fragments: Sequence[Fragment], world_size: int
) -> list[int]:
    """Return the owner of each matrix: who holds most of it, so that little is sent.

    Among those who hold equally much, as at stage 0, it is the rank with the least work so far, then the lowest.
    Large matrices come first, which balances the work.
    """
    held = [[0] * world_size for _ in sizes]
    for each in fragments:
        held[each.parameter][each.rank] += each.size
    owners, work = [0] * len(sizes), [0.0] * world_size
    for matrix in sorted(range(len(sizes)), key=lambda number: (-costs[number], number)):
        owner = min(range(world_size), key=lambda rank: (-held[matrix][rank], work[rank], rank))
        owners[matrix] = owner
        work[owner] += costs[matrix]
    return owners


def _is_whole(fragment: Fragment, sizes: Sequence[int]) -> bool:
    return fragment.start == 0 and fragment.stop == sizes[fragment.parameter]


def _transfer(moves: Iterable[tuple[int, int, Fragment]], rank: int, world_size: int) -> Transfer:
    """Return one rank's part of all moves, which are (from, to, fragment)."""
    sent: list[list[Fragment]] = [[] for _ in range(world_size)]
    received: list[list[Fragment]] = [[] for _ in range(world_size)]
    is_empty = True
    for source, destination, fragment in moves:
        is_empty = False
        if source == rank:
            sent[destination].append(fragment)
        if destination == rank:
            received[source].append(fragment)
    return Transfer(tuple(map(tuple, sent)), tuple(map(tuple, received)), is_empty)


class MatrixExchange:
    """Moves flat tensors between ranks by a plan. No method waits for the device.

    Args:
        plan: This rank's plan.
        dtype: Data type of all that is sent.
        device: Device of the parameters.
    """

    def __init__(self, plan: ExchangePlan, dtype: torch.dtype, device: torch.device):
        self.plan = plan
        self.dtype = dtype
        self._nothing = torch.empty(0, dtype=dtype, device=device)

    def gather(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Return the whole matrices that this rank owns, flat. Collective unless the transfer is empty.

        Args:
            pieces: A flat tensor for each fragment of `plan.local`.
        """
        held = dict(zip(self.plan.local, pieces, strict=True))
        held |= self._send(self.plan.gather, held.__getitem__)
        parts: dict[int, list[Tensor]] = {number: [] for number in self.plan.owned}
        for fragment in sorted(held, key=lambda each: each.start):
            if fragment.parameter in parts:
                parts[fragment.parameter].append(held[fragment])
        return [each[0] if len(each) == 1 else torch.cat(each) for each in parts.values()]

    def scatter(self, results: Sequence[Tensor]) -> list[Tensor]:
        """Return a flat piece of the results for each fragment of `plan.local`. Collective like `gather`.

        Args:
            results: A flat tensor for each matrix of `plan.owned`.
        """
        whole = dict(zip(self.plan.owned, results, strict=True))

        def cut(fragment: Fragment) -> Tensor:
            return whole[fragment.parameter][fragment.start : fragment.stop]

        arrived = self._send(self.plan.scatter, cut)
        return [arrived[each] if each in arrived else cut(each) for each in self.plan.local]

    def _send(self, transfer: Transfer, piece: Callable[[Fragment], Tensor]) -> dict[Fragment, Tensor]:
        """Send this rank's pieces of a transfer, and return those that it receives."""
        if transfer.is_empty:
            return {}
        outgoing = [piece(each) for to_rank in transfer.sent for each in to_rank]
        incoming = [each for from_rank in transfer.received for each in from_rank]
        sizes = [each.size for each in incoming]
        received = self._nothing.new_empty(sum(sizes))
        dist.all_to_all_single(
            received,
            torch.cat([*outgoing, self._nothing]),
            [sum(each.size for each in from_rank) for from_rank in transfer.received],
            [sum(each.size for each in to_rank) for to_rank in transfer.sent],
        )
        return dict(zip(incoming, received.split(sizes), strict=True))
