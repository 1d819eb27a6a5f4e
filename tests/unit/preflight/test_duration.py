import json

import pytest

from gpt2dist.errors import UserError
from gpt2dist.preflight import resolve
from gpt2dist.preflight.duration import durations


def test_hours_on_a_gpu_by_hand(run_file):
    config, plan = resolve(run_file, [], world_size=2)
    (found,) = durations(config, plan, "NVIDIA A100-SXM4-80GB")
    assert found.hours == pytest.approx(plan.total_flops / (2 * 0.4 * 19.5e12) / 3600)
    assert found.basis == "on 2 × NVIDIA A100-SXM4-80GB, if they reach 40% of their fp32 peak"
    assert not found.measured
    assert [each.basis.split()[3] for each in durations(config, plan)] == ["A100,", "H100,"]


def test_a_gpu_that_nobody_knows(run_file):
    config, plan = resolve(run_file, [], 1)
    said = r"--device Abacus: unknown peak fp32 FLOP/s; name one of B200, H200 NVL, H200, .*, V100 PCIe, .*, T4, "
    with pytest.raises(UserError, match=said):
        durations(config, plan, "Abacus")


def test_a_gpu_without_the_precision_of_the_run(run_file):
    config, plan = resolve(run_file, ["precision=bf16", "zero.stage=1"], 1)
    with pytest.raises(
        UserError, match=r"--device T4: unknown peak bf16 FLOP/s; name one of B200, (?!.*(T4|V100))"
    ):
        durations(config, plan, "T4")


@pytest.fixture
def ran(run_file):
    """A run that has recorded steps on two ranks."""
    config, _ = resolve(run_file, [], 2)
    config.output_dir.mkdir()
    (config.output_dir / "environment.json").write_text(json.dumps({"world_size": 2}))
    rates = [10.0, 90.0, 100.0, 110.0, 5000.0]
    lines = [json.dumps({"step": step, "throughput/tokens_per_second": rate}) for step, rate in enumerate(rates)]
    lines.insert(2, json.dumps({"step": 2, "eval/val/loss": 3.0}))
    (config.output_dir / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "thr')
    return config.output_dir


def test_a_run_is_measured_by_its_own_records(run_file, ran):
    (found,) = durations(*resolve(run_file, [], 2))
    assert found.measured
    assert found.hours == pytest.approx(100 * 16 * 32 / 100 / 3600)  # the median, the torn line left out
    assert found.basis == "at 100 tokens per second, as in metrics.jsonl"
    config, plan = resolve(run_file, [], 2)
    assert not durations(config, plan, "H100")[0].measured  # asked for


def test_records_of_another_number_of_ranks_tell_nothing(run_file, ran):
    assert not durations(*resolve(run_file, [], 4))[0].measured
    (ran / "environment.json").write_text("{")
    assert not durations(*resolve(run_file, [], 2))[0].measured
