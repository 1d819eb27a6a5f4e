"""The metric of the best checkpoint, and patience."""

import pytest

from tests.support.mistakes import mistakes

METRIC = "checkpoint.keep_best=eval/held-out/loss"
METRICS = "eval/held-out/loss, eval/held-out/perplexity, eval/held-out/bits_per_byte"


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            ["evaluation={every_steps: 5, patience: 3}"],
            [
                "checkpoint.keep_best: missing; evaluation.patience counts the evaluations that do not improve "
                "it; set a metric such as eval/val/loss, or remove the patience"
            ],
        ),
        (
            [METRIC],
            [
                "evaluation.every_steps: missing, so that only the last step is evaluated; set it for "
                "checkpoint.keep_best"
            ],
        ),
        (
            [METRIC, "data.validation="],
            [
                "checkpoint.keep_best: eval/held-out/loss, but there is nothing to evaluate; name a set in "
                "data.validation"
            ],
        ),
        *(
            (
                [f"checkpoint.keep_best={wrong}", "evaluation.every_steps=5"],
                [
                    f"checkpoint.keep_best: {wrong!r} is no metric of the evaluations during training; set one "
                    f"of {METRICS}"
                ],
            )
            for wrong in ("loss", "eval/other/loss", "eval/held-out/word_perplexity")
        ),
        (["evaluation={every_steps: 5, patience: 0}"], ["evaluation.patience: should be above 0, not 0"]),
    ],
)
def test_what_is_wrong_with_the_metric_of_the_best_and_the_way_out(run_file, overrides, messages):
    assert mistakes(run_file, overrides) == messages
