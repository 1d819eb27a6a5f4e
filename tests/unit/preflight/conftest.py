from pathlib import Path

import pytest

RIGHT = """
model: {n_layer: 2, n_head: 4, n_embd: 32, context_length: 64}
data:
  train: [{path: DATASET}]
  validation: [{name: held-out, path: DATASET}]
  sequence_length: 32
  stride: 20
batch: {global_batch_size: 16, micro_batch_size: 2}
schedule: {total_steps: 100, warmup_steps: 10}
run: {output_dir: OUTPUT}
"""


@pytest.fixture
def run_file(tmp_path, make_dataset) -> Path:
    """A right configuration: 2,001 training tokens, 300 for validation."""
    dataset = make_dataset("right", train=[1500, 501], val=[300])
    path = tmp_path / "run.yaml"
    path.write_text(RIGHT.replace("DATASET", str(dataset)).replace("OUTPUT", str(tmp_path / "out")))
    return path
