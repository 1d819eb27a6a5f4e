import json

import torch

from gpt2dist.run import environment


def test_it_names_what_a_run_depends_on_and_fits_into_json():
    facts = json.loads(json.dumps(environment.describe()))
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(facts["packages"]) == {"torch", "deepspeed", "transformers", "tokenizers", "numpy", "safetensors"}
    assert facts["host"] and facts["python"] and facts["cpus"] >= 1
