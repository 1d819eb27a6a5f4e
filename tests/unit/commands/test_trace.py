import json
from itertools import islice

import pytest

from gpt2dist.commands.trace import load_plan, trace
from gpt2dist.errors import UserError
from gpt2dist.loading.batch_ramp import Origin
from gpt2dist.loading.loader import Loader, MicroBatcher, MixtureBatcher
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.preflight import resolve

RUN = """
model: {n_layer: 1, n_head: 1, n_embd: 8, context_length: 16}
data: {train: [{path: DATASET}], stride: 5}
batch: {global_batch_size: 12, micro_batch_size: 2, ramp: {start: 4, increment: 4, samples: 30}}
schedule: {total_steps: 9}
"""


@pytest.fixture
def plan(tmp_path, make_dataset):
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("DATASET", str(make_dataset(train=[400]))))
    return resolve(path, [], world_size=2)[1]


def test_a_step_of_a_ramp_is_traced_to_what_the_ranks_train_on(plan):
    (training,) = plan.datasets
    batcher = MixtureBatcher([MicroBatcher(TokenStream.open(training.dataset, "train"), training.windows, "all")])
    loaders = [
        Loader(plan.mixture, batcher, lambda batch: batch, plan.batch_sizes, 2, rank, 2) for rank in range(2)
    ]
    steps = [list(islice(loader, 9)) for loader in loaders]
    for loader in loaders:
        loader.close()
    samples = []
    for number in range(9):
        windows = trace(plan, number + 1)
        samples += [window["sample"] for window in windows]
        for rank in range(2):
            # The dataset counts its tokens: the first of a window is where it starts.
            loaded = [int(row[0]) for batch in steps[rank][number].micro_batches for row in batch.tokens]
            assert [window["start"] for window in windows if window["rank"] == rank] == loaded
    assert samples == list(range(4 * 4 + 2 * 8 + 3 * 12))


def test_the_steps_end_where_the_run_does(plan):
    with pytest.raises(UserError, match=r"--step 10: the run has steps 1 … 9"):
        trace(plan, 10)


def test_a_step_before_a_change_without_a_record_of_it(plan):
    later = plan.continued(Origin(step=5, samples=28, data_from=28), 9)
    assert trace(later, 6)[0]["window"] == trace(plan, 1)[0]["window"]
    with pytest.raises(
        UserError, match=r"--step 5: the data or batch was changed after step 5, and starts/ has no"
    ):
        trace(later, 5)


@pytest.mark.parametrize(
    ("origin", "reason"),
    [({"step": "5"}, "step is '5', not a whole number"), ({"step": 5}, "total_steps is missing")],
)
def test_a_damaged_record_of_a_change(tmp_path, origin, reason):
    (tmp_path / "environment.json").write_text(json.dumps({"origin": origin}))
    with pytest.raises(UserError) as refused:
        load_plan(tmp_path, 3)
    assert str(refused.value) == f"{tmp_path}/environment.json: {reason}; resume the run, which rewrites the file"
