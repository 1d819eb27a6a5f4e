"""The plan of the files: each row once, whole weights, sizes within the limits, and equal work for the ranks."""

import itertools
import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2dist.checkpoint.parts import PART_BYTES, PartBytes, deal, index, make_parts
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import PRESETS, Shape

ADAMW = ("exp_avg", "exp_avg_sq")


def plan(shapes, ranks, limits=PART_BYTES, state=ADAMW):
    return make_parts(shapes, dict.fromkeys(shapes, state), ranks, limits)


def preset(name):
    return {each: tuple(size) for each, size in parameter_shapes(Shape(*PRESETS[name], 1024, 50257)).items()}


def written(parts, ranks):
    """The bytes that each rank writes."""
    loads = Counter(dict.fromkeys(range(ranks), 0))
    for part in parts:
        loads[part.rank] += part.bytes
    return [loads[rank] for rank in range(ranks)]


def check_content(parts, shapes, state=ADAMW):
    """Each row of each tensor is in one place, weights are whole, and the names of files count them."""
    rows = defaultdict(list)
    for part in parts:
        kind = part.file.split("-")[0]
        for piece in part.pieces:
            assert kind == ("model" if piece.key == "param" else "optimizer")
            assert piece.shape == shapes[piece.name] and piece.begin <= piece.end
            rows[piece.key, piece.name].append((piece.begin, piece.end))
    assert set(rows) == {(key, name) for name in shapes for key in ("param", *state)}
    for (key, name), parts_of in rows.items():
        ends = sorted(parts_of)
        assert key != "param" or len(ends) == 1
        assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
        assert ends[-1][1] == (shapes[name][0] if shapes[name] else 1)
    labels = [(part.file.split("-")[0], piece.label) for part in parts for piece in part.pieces]
    assert len(set(labels)) == len(labels)
    for kind in ("model", "optimizer"):
        files = [part.file for part in parts if part.file.startswith(kind)]
        names = [f"{kind}-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
        assert files == names


shapes_of = st.dictionaries(
    st.text("abc", min_size=1, max_size=4),
    st.one_of(st.just(()), st.tuples(st.integers(1, 300)), st.tuples(st.integers(1, 300), st.integers(1, 40))),
    min_size=1,
    max_size=12,
)


@given(shapes_of, st.integers(1, 12), st.integers(4, 10**5), st.integers(1, 50), st.sampled_from([(), ADAMW]))
def test_any_plan_is_complete_and_balanced(shapes, ranks, smallest, times, state):
    limits = PartBytes(smallest, smallest * times)
    parts = plan(shapes, ranks, limits, state)
    check_content(parts, shapes, state)
    loads = written(parts, ranks)
    largest = max(4 * math.prod(shape) for shape in shapes.values())
    assert max(loads) <= sum(loads) / ranks + largest + 4 * smallest
    for part in parts:
        row = max((piece.bytes // max(1, piece.end - piece.begin) for piece in part.pieces), default=0)
        single = len(part.pieces) == 1 and part.pieces[0].key == "param"
        assert single or part.bytes <= limits.largest + 2 * row
    if sum(4 * math.prod(shape) for shape in shapes.values()) < smallest and len(state) < 2:
        assert len(parts) == 2


@pytest.mark.parametrize(
    ("name", "ranks", "files", "writers", "most"),
    [
        ("gpt2-124m", 1, (1, 1), 1, 1.01),
        ("gpt2-124m", 3, (1, 2), 3, 1.01),
        ("gpt2-124m", 1000, (1, 3), 4, 1.34),
        ("gpt2-1558m", 1, (2, 3), 1, 1.01),
        ("gpt2-1558m", 2, (2, 4), 2, 1.01),
        ("gpt2-1558m", 8, (8, 8), 8, 1.01),
        ("gpt2-1558m", 64, (23, 41), 64, 1.11),
        ("gpt2-1558m", 1000, (23, 46), 69, 1.19),
    ],
)
def test_the_files_of_gpt2(name, ranks, files, writers, most):
    """At most `most` times the mean of the ranks that write, in files of 256 MiB to 5 GB."""
    shapes = preset(name)
    parts = plan(shapes, ranks)
    check_content(parts, shapes)
    kinds = Counter(part.file.split("-")[0] for part in parts)
    assert (kinds["model"], kinds["optimizer"]) == files
    loads = written(parts, ranks)
    at_work = [load for load in loads if load]
    assert len(at_work) == writers
    assert max(at_work) * len(at_work) / sum(at_work) < most
    assert loads[0] <= (min(at_work) + 100_000 if writers == ranks else 0)  # to a row or two
    assert all(0.99 * PART_BYTES.smallest < part.bytes < 1.01 * PART_BYTES.largest for part in parts)


def test_the_ranks_that_write_are_spread_over_the_hosts():
    ranks = sorted({part.rank for part in plan(preset("gpt2-1558m"), 1000)})
    assert {after - before for before, after in itertools.pairwise(ranks)} == {14, 15}


def test_a_small_model_has_one_file_of_each_kind_which_two_ranks_write():
    parts = plan({"a": (10, 4), "b": (3,)}, 3)
    assert [(part.file, part.rank) for part in parts] == [
        ("model-00001-of-00001.safetensors", 1),
        ("optimizer-00001-of-00001.safetensors", 2),
    ]


def test_an_optimizer_without_state_has_an_empty_file():
    parts = plan({"a": (10, 4)}, 3, state=())
    assert [(part.file, len(part.pieces)) for part in parts] == [
        ("model-00001-of-00001.safetensors", 1),
        ("optimizer-00001-of-00001.safetensors", 0),
    ]


def test_state_is_cut_between_rows_and_named_by_them():
    parts = plan({"a": (10, 4)}, 2, PartBytes(160, 10**6), ("momentum",))
    assert [piece.label for part in parts for piece in part.pieces] == ["a", "momentum.a"]
    parts = plan({"a": (10, 4)}, 2, PartBytes(40, 200), ADAMW)
    assert [(part.rank, [piece.label for piece in part.pieces]) for part in parts] == [
        (1, ["a"]),
        (0, ["exp_avg.a[5:10]", "exp_avg_sq.a[0:2]"]),
        (0, ["exp_avg_sq.a[2:10]"]),
        (1, ["exp_avg.a[0:5]"]),
    ]


def test_each_parameter_has_its_own_state():
    """As with Muon, which has one tensor for a matrix and AdamW's two for others."""
    parts = make_parts({"a": (4, 2), "b": (3,)}, {"a": ("momentum",), "b": ADAMW}, 1)
    assert [piece.label for piece in parts[1].pieces] == ["momentum.a", "exp_avg.b", "exp_avg_sq.b"]


def test_the_index_names_the_file_of_each_weight():
    shapes = {"a": (10, 4), "b": (8, 4), "c": (3,)}
    parts = plan(shapes, 2, PartBytes(100, 10**6))
    assert index(parts) == {
        "metadata": {"total_size": 4 * (40 + 32 + 3)},
        "weight_map": {piece.name: part.file for part in parts[:2] for piece in part.pieces},
    }
    assert set(index(parts)["weight_map"]) == set(shapes)


def test_items_are_dealt_by_size_and_always_alike():
    sizes = {"a": 100, "b": 60, "c": 50, "d": 40, "e": 10}
    parts = deal(sizes, 2)
    assert parts == deal(dict(reversed(sizes.items())), 2)
    assert sorted(name for part in parts for name in part) == sorted(sizes)
    assert [sum(sizes[name] for name in part) for part in parts] == [140, 120]


def test_more_parts_than_items_leave_no_empty_part():
    assert deal({"a": 1, "b": 2}, 5) == [{"b"}, {"a"}]
