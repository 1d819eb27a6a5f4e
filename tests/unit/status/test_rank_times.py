from gpt2dist.status.rank_times import last_rank_times


def line(name, smallest, largest, rank):
    return {f"time/{name}_min": smallest, f"time/{name}_max": largest, f"time/{name}_max_rank": rank}


def test_the_newest_times_of_each_name_are_found():
    lines = [line("save", 1.0, 9.0, 7), line("step", 0.5, 0.6, 3), {"train/loss": 2.0}, line("step", 0.4, 0.8, 1)]
    assert [each.described() for each in last_rank_times(lines)] == [
        "save: 9 s on rank 7, 1 s on the fastest",
        "step: 0.8 s on rank 1, 0.4 s on the fastest",
    ]


def test_runs_of_one_rank_and_damaged_lines_have_none():
    damaged = [
        {"time/step": 1.0},
        line("step", None, 1.0, 2),
        line("step", "a", 1.0, 2),
        line("step", 1, 2, None),
    ]
    assert last_rank_times(damaged) == []
