"""Evaluation on real ranks: as replicas and in parts, it has the bits of one process."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from gpt2dist import cli
from gpt2dist.checkpoint import store
from gpt2dist.checkpoint.parts import make_parts
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.hellaswag import QUESTIONS, save_model
from tests.support.ranks import run_ranks
from tests.support.runs import train, write_run
from tests.support.stores import SMALL

CONTEXT = 32
BATCH_SIZES = (1, 3, 8)
TEXTS = ["abc def, ghi. " * 44, "fed", "jkl abc " * 25]
SIZES = {"vocab_size": 300, "n_positions": CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2}


@pytest.fixture(scope="module")
def directory(tiny_dataset, tmp_path_factory):
    return save(GPT2LMHeadModel, tmp_path_factory.mktemp("model") / "model", tiny_dataset)


def save(kind, directory, dataset, **options):
    torch.manual_seed(0)
    model = kind(GPT2Config(**SIZES, bos_token_id=299, eos_token_id=299, initializer_range=0.2, **options))
    model.save_pretrained(directory)
    Tokenizer.load(dataset).save(directory)
    return directory


def score_texts(directory, batch_sizes=BATCH_SIZES, zero_stage=0, per_document=False, dtype="fp32"):
    """What each rank computes, for each batch size."""
    from gpt2dist.distributed.world import join
    from gpt2dist.evaluation.evaluate import EvaluationConfig, evaluate
    from gpt2dist.evaluation.held_out_text import HeldOut

    world = join()
    text = HeldOut.of_texts(TEXTS, Tokenizer.load(directory))

    def setting(batch_size):
        return EvaluationConfig(
            stride=12, per_document=per_document, batch_size=batch_size, zero_stage=zero_stage, dtype=dtype
        )

    told = []
    results = [evaluate(directory, text, setting(size), world, on_difference=told.append) for size in batch_sizes]
    assert len(told) == (len(batch_sizes) if dtype == "bf16" else 0)
    return [(result["nll_sum"], result["targets"], result["windows"]) for result in results]


def score_passages(directory, zero_stage):
    from gpt2dist.distributed.world import join
    from gpt2dist.evaluation.lambada import lambada

    passages = ["abc def ghi", "jkl", "abc  def", "abcdef " * 20 + "abc", "fed cab"]
    result = lambada(directory, passages, join(), 2, zero_stage)
    return result["nll_sum"], result["accuracy"], result["targets"]


def choose(directory, zero_stage, batch_size=3):
    """The log-likelihoods and accuracies of the questions."""
    from gpt2dist.distributed.world import join
    from gpt2dist.evaluation.multiple_choice import multiple_choice
    from gpt2dist.evaluation.questions import read_questions

    kept = []
    questions = read_questions(QUESTIONS)
    result = multiple_choice(directory, questions, join(), batch_size, zero_stage, on_scores=kept.append)
    return [each.tolist() for each in kept[0].log_likelihoods], result["acc"], result["acc_norm"]


def run_tasks(directory, home, zero_stage=0):
    """The results of three kinds of requests; only rank 0 loads the harness's tasks."""
    from gpt2dist.distributed.world import join
    from gpt2dist.evaluation.tasks import Tasks

    world = join()
    tasks = Tasks(["likely", "rolling", "said"], home, None, None, world, 2, zero_stage)
    results = [tasks.evaluate(name, directory) for name in tasks.names]
    assert world.is_main or "lm_eval.tasks" not in sys.modules
    timed = ("seconds", "world_size", "zero_stage")
    return [{key: value for key, value in result.items() if key not in timed} for result in results]


def unknown_task(directory):
    from gpt2dist.distributed.world import join
    from gpt2dist.evaluation.tasks import Tasks

    try:
        Tasks(["no_such_task.yaml"], None, None, None, join())
    except UserError as error:
        return str(error)


def refusal(directory, zero_stage):
    try:
        score_texts(directory, (1,), zero_stage)
    except UserError as error:
        return str(error)


def the_same(results):
    """The result that all ranks have."""
    assert all(result == results[0] for result in results)
    return results[0]


@pytest.mark.parametrize("per_document", [False, True])
def test_the_bits_at_any_number_of_ranks(directory, per_document):
    (alone,) = run_ranks(score_texts, 1, directory, BATCH_SIZES, 0, per_document)
    assert all(windows % size for _, _, windows in alone for size in (2, 3, 5)), "no number of ranks divides it"
    for size in (2, 3, 5):
        assert the_same(run_ranks(score_texts, size, directory, BATCH_SIZES, 0, per_document)) == alone


@pytest.fixture(scope="module")
def replica(directory):
    """What one process scores that holds the whole model."""
    return the_same(run_ranks(score_texts, 1, directory))


def assert_close(ours, theirs):
    """But for rounding: replicas on a CPU multiply by oneDNN, a model in parts does not."""
    for (nll, *counts), (expected, *expected_counts) in zip(ours, theirs, strict=True):
        assert nll == pytest.approx(expected, rel=1e-6) and counts == expected_counts


def test_in_parts_it_scores_as_a_replica_with_the_same_bits_at_any_number_of_ranks(directory, replica):
    alone = the_same(run_ranks(score_texts, 1, directory, BATCH_SIZES, 3))
    assert_close(alone, replica)
    for size in (2, 3):
        assert the_same(run_ranks(score_texts, size, directory, BATCH_SIZES, 3)) == alone


def test_bf16_as_a_replica_and_in_parts(directory, replica):
    (alone,) = run_ranks(score_texts, 1, directory, (8,), dtype="bf16")
    in_parts = the_same(run_ranks(score_texts, 2, directory, (8,), 3, dtype="bf16"))
    ((exact, *_),) = replica[2:]
    ((ours, *counts),), ((theirs, *expected),) = alone, in_parts
    assert ours == pytest.approx(theirs, rel=1e-4) and counts == expected
    assert ours == pytest.approx(exact, rel=1e-2) and abs(ours - exact) > abs(ours - theirs)


def test_lambada_in_parts(directory):
    (nll, *rest) = the_same(run_ranks(score_passages, 1, directory, 0))
    assert the_same(run_ranks(score_passages, 3, directory, 0)) == (nll, *rest)
    (in_parts, *others) = the_same(run_ranks(score_passages, 2, directory, 3))
    assert in_parts == pytest.approx(nll, rel=1e-6) and others == rest


def test_multiple_choice_at_any_number_of_ranks_and_in_parts(tmp_path):
    model = save_model(tmp_path / "model", updates=2)
    alone = the_same(run_ranks(choose, 1, model, 0))
    for size in (2, 3):
        assert the_same(run_ranks(choose, size, model, 0)) == alone
    in_parts = the_same(run_ranks(choose, 2, model, 3))
    assert in_parts[1:] == alone[1:]
    for scores, expected in zip(in_parts[0], alone[0], strict=True):
        assert scores == pytest.approx(expected, rel=1e-5)


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: {kind}
test_split: test
doc_to_text: "{text}"
doc_to_target: "{{{{text}}}}"
generation_kwargs: {{until: ["a"], max_gen_toks: 5}}
metric_list: [{{metric: {metric}}}]
"""


@pytest.fixture
def tasks(tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not here: pip install 'gpt2dist[lm-eval]'")
    data = tmp_path / "texts.jsonl"
    data.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ["abc def", "fed cab jkl " * 9, "a", "k b"])
    )
    home = tmp_path / "tasks"
    home.mkdir()
    for name, kind, text, metric in (
        ("likely", "loglikelihood", "abc", "perplexity"),
        ("rolling", "loglikelihood_rolling", "", "word_perplexity"),
        ("said", "generate_until", "{{text}}", "exact_match"),
    ):
        task = TASK.format(name=name, data=data, kind=kind, text=text, metric=metric)
        (home / f"{name}.yaml").write_text(task)
    return home


def test_tasks_of_the_harness_at_any_number_of_ranks_and_in_parts(directory, tasks):
    alone = the_same(run_ranks(run_tasks, 1, directory, tasks))
    for size in (2, 3):
        assert the_same(run_ranks(run_tasks, size, directory, tasks)) == alone
    in_parts = the_same(run_ranks(run_tasks, 2, directory, tasks, 3))
    for result, expected, metric in zip(
        in_parts, alone, ("perplexity", "word_perplexity", "exact_match"), strict=True
    ):
        assert result[metric] == pytest.approx(expected[metric], rel=1e-5)
        assert result["data"] == expected["data"]


def test_an_unknown_task_is_told_by_all_ranks(directory):
    pytest.importorskip("lm_eval", reason="lm-eval is not here: pip install 'gpt2dist[lm-eval]'")
    assert the_same(run_ranks(unknown_task, 2, directory)) == "--tasks: no_such_task.yaml: no such file"


def sharded(directory, tiny_dataset):
    model = GPT2LMHeadModel.from_pretrained(directory)
    model.save_pretrained(directory, max_shard_size="10KB")
    (directory / "model.safetensors").unlink()
    assert len(list(directory.glob("model-*.safetensors"))) > 2
    return directory


def without_prefix(directory, tiny_dataset):
    """As a model is saved that has no output layer of its own: `wte.weight` and not `transformer.wte.weight`."""
    shutil.rmtree(directory)
    save(GPT2Model, directory, tiny_dataset)
    assert "wte.weight" in load_file(directory / "model.safetensors")
    return directory


def untied(directory, tiny_dataset):
    shutil.rmtree(directory)
    save(GPT2LMHeadModel, directory, tiny_dataset, tie_word_embeddings=False)
    weights = load_file(directory / "model.safetensors")
    assert not torch.equal(weights["lm_head.weight"], weights["transformer.wte.weight"])
    return directory


@pytest.mark.parametrize("make", [sharded, without_prefix, untied])
def test_a_model_that_was_saved_in_another_way(directory, tiny_dataset, tmp_path, make):
    model = make(shutil.copytree(directory, tmp_path / "model"), tiny_dataset)
    whole = the_same(run_ranks(score_texts, 1, model, (3,)))
    loaded = GPT2LMHeadModel.from_pretrained(model).eval()
    assert whole[0][0] == pytest.approx(by_hand(loaded, Tokenizer.load(model)), rel=1e-6)
    assert_close(the_same(run_ranks(score_texts, 2, model, (3,), 3)), whole)


def by_hand(model, tokenizer, stride=12):
    """Σ nll with transformers' own output layer, a window at a time."""
    end = tokenizer.end_of_text_id
    stream = np.concatenate([[*tokenizer.encode(text), end] for text in TEXTS]).astype(np.int64)
    total, done = 0.0, 1
    while done < len(stream):
        until = min(done + (CONTEXT if done == 1 else stride), len(stream))
        window = torch.from_numpy(stream[max(0, until - CONTEXT - 1) : until])[None]
        with torch.no_grad():
            logits = model(window[:, :-1]).logits[0].double()
        nll = -logits.log_softmax(-1).gather(1, window[0, 1:, None])
        total += nll[done - until :].sum().item()
        done = until
    return total


def test_a_missing_tensor_is_told_by_all_ranks(directory, tmp_path):
    partial = shutil.copytree(directory, tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, partial / "model.safetensors", {"format": "pt"})
    message = "has no transformer.h.1.mlp.c_fc.weight in its files, which is part of the model"
    for zero_stage in (0, 3):
        assert message in the_same(run_ranks(refusal, 2, partial, zero_stage))


def test_a_tensor_that_no_parameter_takes_is_told_by_all_ranks(directory, tmp_path):
    longer = shutil.copytree(directory, tmp_path / "longer")
    weights = load_file(longer / "model.safetensors")
    weights |= {"transformer.h.2.ln_1.bias": torch.ones(16), "transformer.h.0.attn.masked_bias": torch.ones(1)}
    save_file(weights, longer / "model.safetensors", {"format": "pt"})
    for zero_stage in (0, 3):
        message = the_same(run_ranks(refusal, 2, longer, zero_stage))
        assert "has a tensor transformer.h.2.ln_1.bias in model.safetensors, which is not part" in message


def test_a_tensor_of_another_shape_is_told_by_all_ranks(directory, tmp_path):
    other = shutil.copytree(directory, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["transformer.ln_f.bias"] = torch.ones(1)  # which could be copied to all 16 places
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    for zero_stage in (0, 3):
        message = the_same(run_ranks(refusal, 2, other, zero_stage))
        assert "transformer.ln_f.bias has the shape [1] in its files, and its config.json says [16]" in message


def test_a_file_that_was_cut_off_is_told_by_all_ranks(directory, tmp_path):
    short = shutil.copytree(directory, tmp_path / "short")
    content = (short / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(content[:5000])
    for zero_stage in (0, 3):
        assert "model.safetensors: cannot be read (" in the_same(run_ranks(refusal, 2, short, zero_stage))


def test_an_id_beyond_the_vocabulary_is_told_by_the_rank_that_reads_it(directory, tiny_dataset, tmp_path, capfd):
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    tokens = np.fromfile(dataset / "val-00000.bin", np.uint16)
    tokens[40] = 300  # in the second window alone
    tokens.tofile(dataset / "val-00000.bin")
    words = ["evaluate", str(directory), "--data", str(dataset), "--batch-size", "1", "--stride", str(CONTEXT)]
    assert run_ranks(cli.main, 2, words) == [1, 2]
    told = capfd.readouterr().err
    assert (
        f"gpt2dist evaluate: {dataset}/val-00000.bin: token 40 (document 0 of val, its token 40) is 300" in told
    )
    assert "gpt2dist evaluate: another rank failed first" in told and "Traceback" not in told
    assert run_ranks(cli.main, 1, words) == [2]


def found_by_each(run):
    """What each rank finds in a run that goes on, when it looks a checkpoint later than the one before."""
    from gpt2dist.distributed.world import join
    from gpt2dist.evaluation import model_forward

    world = join()
    model_forward.locate = lambda name: run / f"checkpoints/step-{10 + world.rank:08d}"
    return model_forward.locate_together(run, world).name


def test_all_ranks_score_the_checkpoint_that_the_main_rank_found(tmp_path):
    for step in (10, 11):
        (tmp_path / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    assert run_ranks(found_by_each, 2, tmp_path) == ["step-00000010"] * 2


def score_dataset(checkpoint, dataset, zero_stage):
    from gpt2dist.distributed.world import join
    from gpt2dist.evaluation.evaluate import EvaluationConfig, evaluate
    from gpt2dist.evaluation.held_out_text import HeldOut

    text = HeldOut.of_dataset(Manifest.load(dataset), "val")
    setting = EvaluationConfig(stride=12, batch_size=5, zero_stage=zero_stage)
    result = evaluate(checkpoint, text, setting, join())
    return result["nll_sum"], result["targets"], result["bits_per_byte"]


def test_validation_during_training_is_what_evaluate_says_of_the_checkpoint(tiny_dataset, tmp_path, monkeypatch):
    # The ranks are forked and inherit it: a small model has several files only with small parts.
    monkeypatch.setattr(store, "make_parts", lambda *args: make_parts(*args[:3], SMALL))
    config = write_run(tmp_path, tiny_dataset, validation=True)
    run = train(
        config,
        *("checkpoint.every_steps=5", "checkpoint.keep_last=9", "evaluation.every_steps=5"),
        *("evaluation.stride=12", "evaluation.batch_size=5", "schedule.total_steps=10"),
        world_size=2,
    )
    for step in (5, 10):
        during = json.loads((run / f"eval/step-{step:08d}.json").read_text())["val"]
        checkpoint = run / f"checkpoints/step-{step:08d}"
        assert len(list(checkpoint.glob("model-*.safetensors"))) == 2, "the files of two ranks"
        for size, zero_stage in ((1, 0), (2, 3)):
            nll, targets, bits = the_same(run_ranks(score_dataset, size, checkpoint, tiny_dataset, zero_stage))
            assert nll == pytest.approx(during["nll_sum"], rel=1e-6)
            assert targets == during["targets"]
            assert bits == pytest.approx(during["bits_per_byte"], rel=1e-6)
