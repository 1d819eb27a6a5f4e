from gpt2dist.preflight.plot import plot, sampled


def test_columns_are_filled_up_to_their_values():
    lines = plot([0.0, 1.0, 4.0, 7.9, 8.0], 8.0, 2, lambda value: f"{value:g}", ("0", "4"))
    assert lines == ["8 │   ██", "4 │ ▂███", "  0   4"]


def test_what_is_sampled_has_both_ends():
    assert sampled(lambda step: float(step), 3) == [0, 1, 2]
    values = sampled(lambda step: float(step), 1000, width=5)
    assert values == [0, 249, 499, 749, 999]
    assert sampled(lambda step: 5.0, 1) == [5.0]
