import pytest
from mistakes import mistakes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["batch.micro_batch_size=3"],
            "batch.global_batch_size: 16 is not a multiple of micro_batch_size 3 × world size 1 = 3; "
            "would fit: global_batch_size 15 or 18, or micro_batch_size 1, 2, 4, 8 or 16",
        ),
        (
            ["batch.micro_batch_size=32"],
            "batch.global_batch_size: 16 is not a multiple of micro_batch_size 32 × world size 1 = 32; "
            "would fit: global_batch_size 32, or micro_batch_size 1, 2, 4, 8 or 16",
        ),
    ],
)
def test_each_mistake_of_the_batch_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


def test_a_world_size_that_does_not_divide_the_batch_leaves_only_other_batches(run_file):
    assert mistakes(run_file, [], world_size=3) == [
        "batch.global_batch_size: 16 is not a multiple of micro_batch_size 2 × world size 3 = 6; "
        "would fit: global_batch_size 12 or 18"
    ]
