"""What `fabric.measure` found: slow ranks, links and disks, and a table of the hosts. Does not communicate."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gpt2dist.distributed.fabric import ACROSS, BETWEEN, WITHIN, Disk, Measured
from gpt2dist.memory import format_bytes

CLOCK_SECONDS = 1.0
"""Difference of a clock from the others that is reported. Log lines and file times of hosts are compared."""
FEWEST_ALIKE = 3
"""Links that can be compared with each other."""


@dataclass(frozen=True)
class Limits:
    """Fractions of the median below which something is slow.

    Attributes:
        network: For exchanges.
        product: For matrix products.
        disk: For disks, whose rates vary most.
    """

    network: float = 0.7
    product: float = 0.8
    disk: float = 0.5


@dataclass(frozen=True)
class Kind:
    """One kind of rate.

    Attributes:
        name: Its name in messages.
        rates: The best rate that each rank reached; ranks that did not measure it are absent.
        limit: The attribute of `Limits` for it.
        show: Formats a rate.
    """

    name: str
    rates: dict[int, float]
    limit: str
    show: Callable[[float], str]


def findings(measured: Sequence[Measured], limits: Limits = Limits()) -> list[str]:
    """Return a line for each thing that is wrong, the worst first.

    Args:
        measured: What each rank measured.
        limits: What is slow.
    """
    return [
        *_different_versions(measured),
        *_disk_faults(measured),
        *_wrong_clocks(measured),
        *_slow_ranks(measured, limits),
        *_slow_links(measured, limits.network),
    ]


def summary(measured: Sequence[Measured]) -> str:
    """Return a line for each kind of measurement: the median, and the lowest with its place."""
    hosts, first = list(dict.fromkeys(each.host for each in measured)), measured[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    lines = [f"{_count(len(measured), 'rank')} on {_count(len(hosts), 'host')}: {versions}"]
    if len(measured) > 1:
        lines.append(_line("all-reduce", f"{_rate(first.all_reduce)} through each rank, of all ranks together"))
    for kind in _kinds(measured):
        if len(kind.rates) == 1:
            lines.append(_line(kind.name, kind.show(*kind.rates.values())))
        elif kind.rates:
            lowest = min(kind.rates, key=lambda rank: kind.rates[rank])
            median = kind.show(statistics.median_high(kind.rates.values()))
            place = f"rank {lowest} on {measured[lowest].host}"
            lines.append(_line(kind.name, f"median {median}, lowest {kind.show(kind.rates[lowest])} ({place})"))
    disks = [each for each in _disks(measured).values() if not each.fault]
    if len(disks) > 1:
        sums = (_rate(sum(getattr(each, name) for each in disks)) for name in ("write", "read"))
        lines.append(_line("disks together", "write {}, read {}".format(*sums)))
    if len(measured) > 1:
        lines.append(_line("clocks", f"within {_seconds(_spread(list(clock_offsets(measured))))}"))
    return "\n".join(lines)


def table(measured: Sequence[Measured]) -> str:
    """Return a line for each host: the lowest rates of its ranks, its free space, and its clock's difference."""
    heads = ("host", "ranks", "product", "within", "between", "across", "write", "read", "free", "clock")
    rows: list[tuple[str, ...]] = [heads]
    offsets, kinds = clock_offsets(measured), _kinds(measured)
    for host, ranks in _by_host(measured, range(len(measured))).items():
        cells = []
        for kind in kinds:
            here = [kind.rates[rank] for rank in ranks if rank in kind.rates]
            cells.append(kind.show(min(here)) if here else "–")
        disk = measured[ranks[0]].disk
        free = format_bytes(disk.free) if disk and disk.free else "–"
        rows.append((host, _numbers(ranks), *cells, free, _seconds(offsets[ranks[0]])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def clock_offsets(measured: Sequence[Measured]) -> list[float]:
    """Return by how many seconds the clock of each rank is ahead of the median clock.

    All ranks look at their clocks after the same barriers. The median over these leaves out those that a rank
    left late.
    """
    medians = [statistics.median(times) for times in zip(*(each.clocks for each in measured), strict=True)]
    return [
        statistics.median(mine - median for mine, median in zip(each.clocks, medians, strict=True))
        for each in measured
    ]


def _different_versions(measured: Sequence[Measured]) -> Iterator[str]:
    for name in dict.fromkeys(name for each in measured for name in each.versions):
        ranks: dict[str, list[int]] = {}
        for rank, each in enumerate(measured):
            ranks.setdefault(each.versions.get(name, "none"), []).append(rank)
        if len(ranks) > 1:
            most = max(ranks, key=lambda version: len(ranks[version]))
            for version in sorted(ranks.keys() - {most}):
                for host, here in _by_host(measured, ranks[version]).items():
                    yield f"{_place(host, here)}: {name} {version}, most have {most}"


def _disk_faults(measured: Sequence[Measured]) -> Iterator[str]:
    for rank, disk in _disks(measured).items():
        if disk.fault:
            yield f"{measured[rank].host}: cannot use the directory: {disk.fault}"
        elif not disk.shared:
            yield f"{measured[rank].host}: does not see in the directory what {measured[0].host} wrote there"


def _wrong_clocks(measured: Sequence[Measured]) -> Iterator[str]:
    offsets = clock_offsets(measured)
    wrong = [rank for rank, offset in enumerate(offsets) if abs(offset) > CLOCK_SECONDS]
    for host, here in _by_host(measured, wrong).items():
        offset = offsets[here[0]]
        yield f"{host}: its clock is {_seconds(abs(offset))} {'ahead of' if offset > 0 else 'behind'} the others"


def _slow_ranks(measured: Sequence[Measured], limits: Limits) -> Iterator[str]:
    for kind in _kinds(measured):
        if kind.name == ACROSS or not kind.rates:
            continue  # a rank has one partner there, so `_slow_links` reports both
        median = statistics.median_high(kind.rates.values())
        slow = [rank for rank, rate in kind.rates.items() if rate < getattr(limits, kind.limit) * median]
        for host, here in _by_host(measured, slow).items():
            rate = min(kind.rates[rank] for rank in here)
            yield f"{_place(host, here)}: {kind.name} {kind.show(rate)}, {_percent(rate, median)} of the median"


def _slow_links(measured: Sequence[Measured], limit: float) -> Iterator[str]:
    """Yield the links that are slow between two ranks that are not slow otherwise."""
    best = {kind.name: kind.rates for kind in _kinds(measured)}
    groups = _by_host(measured, range(len(measured))).values()
    number = {rank: place for here in groups for place, rank in enumerate(here)}
    alike: dict[tuple[str, int, int], list[tuple[float, int, int]]] = {}
    for rank, each in enumerate(measured):
        for found in each.exchanges:
            if rank < found.partner:
                # Within a host, links of other ranks may be of another kind. Those of other hosts are alike.
                ends = (number[rank], number[found.partner]) if found.kind == WITHIN else (0, 0)
                alike.setdefault((found.kind, *ends), []).append((found.rate, rank, found.partner))
    for (kind, *_), links in alike.items():
        if len(links) < FEWEST_ALIKE:
            continue
        median = statistics.median_high(rate for rate, _, _ in links)
        # A slow rank is reported once, not with each of its links.
        known = BETWEEN if kind == ACROSS else kind
        typical = statistics.median_high(best[known].values())
        slow = {rank for rank, rate in best[known].items() if rate < limit * typical}
        for rate, one, other in links:
            if rate < limit * median and not {one, other} & slow:
                places = " and ".join(f"rank {rank} on {measured[rank].host}" for rank in (one, other))
                yield f"link of {places}: {kind} {_rate(rate)}, {_percent(rate, median)} of the median"


def _kinds(measured: Sequence[Measured]) -> list[Kind]:
    """Return all kinds, in the order of the columns of the table."""
    best: dict[str, dict[int, float]] = {WITHIN: {}, BETWEEN: {}, ACROSS: {}}
    for rank, each in enumerate(measured):
        for found in each.exchanges:
            best[found.kind][rank] = max(found.rate, best[found.kind].get(rank, 0.0))
    disks = {rank: disk for rank, disk in _disks(measured).items() if not disk.fault}
    return [
        Kind("matrix product", {rank: each.product for rank, each in enumerate(measured)}, "product", _flops),
        *(Kind(name, rates, "network", _rate) for name, rates in best.items()),
        Kind("disk write", {rank: disk.write for rank, disk in disks.items()}, "disk", _rate),
        Kind("disk read", {rank: disk.read for rank, disk in disks.items()}, "disk", _rate),
    ]


def _disks(measured: Sequence[Measured]) -> dict[int, Disk]:
    return {rank: each.disk for rank, each in enumerate(measured) if each.disk}


def _by_host(measured: Sequence[Measured], ranks: Iterable[int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for rank in ranks:
        found.setdefault(measured[rank].host, []).append(rank)
    return found


def _place(host: str, ranks: Sequence[int]) -> str:
    return f"{host} (rank{'s' * (len(ranks) > 1)} {_numbers(ranks)})"


def _numbers(ranks: Sequence[int]) -> str:
    """Return "3", "0–7", or "0, 2, 5"."""
    if len(ranks) > 1 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"{ranks[0]}–{ranks[-1]}"
    return ", ".join(map(str, ranks))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _line(name: str, text: str) -> str:
    return f"  {name:20}{text}"


def _rate(rate: float) -> str:
    return f"{format_bytes(rate)}/s"


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.3g} GFLOP/s"


def _percent(value: float, of: float) -> str:
    return f"{100 * value / of:.2g} %"


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if abs(seconds) < 1 else f"{seconds:,.1f} s"


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)
