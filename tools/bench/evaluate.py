"""Compare the speed and the results of an evaluation with lm-evaluation-harness's on the same work.

    pip install 'gpt2dist[lm-eval]'
    python tools/bench/evaluate.py --model runs/NAME --text documents.jsonl [--passages lambada.jsonl]
    python tools/bench/evaluate.py --preset gpt2-124m --tokenizer DIR --text documents.jsonl

Each document is scored by itself, after an end-of-text token and in windows that do not overlap, as in the
harness's task wikitext. Passages are scored as in its task lambada_openai. Both sides are timed alternately, from
the texts to the sum, with the model in memory and without one-time work (imports, task files). The ratio depends
on the number of CPU threads, which OMP_NUM_THREADS sets: state it with the ratio.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gpt2dist.corpus import Reading
from gpt2dist.distributed.world import join, leave
from gpt2dist.evaluation.evaluate import EvaluationConfig, evaluate
from gpt2dist.evaluation.held_out_text import HeldOut, read_texts
from gpt2dist.evaluation.lambada import lambada
from gpt2dist.evaluation.model_forward import load_forward
from gpt2dist.evaluation.perplexity import score
from gpt2dist.model.find_model import locate
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.huggingface import Pretrained, write_huggingface_config
from gpt2dist.model.shape import PRESET_CONTEXT_LENGTH, PRESETS, Shape
from gpt2dist.monitoring.logs import quiet_libraries
from gpt2dist.tokenizer.tokenizer import Tokenizer

ROLLING = ("word_perplexity", "byte_perplexity", "bits_per_byte")
OURS = {"word_perplexity": "lm_eval_word_perplexity"}
"""Names of our measures that differ from the harness's."""


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the MODEL of `gpt2dist evaluate`")
    parser.add_argument(
        "--preset", choices=list(PRESETS), help="sizes of a model with random weights, instead of --model"
    )
    parser.add_argument("--tokenizer", type=Path, help="tokenizer of the preset")
    parser.add_argument("--text", required=True, help="documents: JSON lines with a text")
    parser.add_argument("--passages", help="passages whose last word is predicted: JSON lines with a text")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as home:
        directory = locate(args.model) if args.model else random_model(Path(home), args.preset, args.tokenizer)
        harness = Harness(directory, args.batch_size)
        documents = list(read_texts([args.text], Reading()))
        compare_perplexity(directory, harness, documents, args)
        if args.passages:
            compare_lambada(directory, harness, list(read_texts([args.passages], Reading())), args.batch_size)
    leave()


class Harness:
    """lm-evaluation-harness with a model in memory.

    Args:
        directory: Directory of the model.
        batch_size: Windows per forward pass.
    """

    def __init__(self, directory: Path, batch_size: int):
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = HFLM(str(directory), batch_size=batch_size, device=device, dtype="float32")
        self.tasks = TaskManager(include_defaults=False)  # the defaults are thousands of files

    def rolling(self, documents: list[str]) -> float:
        """Return the Σ log-likelihood of documents, from their texts."""
        from lm_eval.api.instance import Instance

        requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in documents]
        return sum(self.model.loglikelihood_rolling(requests, disable_tqdm=True))

    def task(self, texts: list[str], **task: Any) -> dict[str, float]:
        """Return the metrics of a task on texts, from the harness's complete evaluation."""
        from lm_eval import simple_evaluate

        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
            file.flush()
            source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": file.name}}}
            common = {"task": "local", "test_split": "test", "metadata": {"version": 1}}
            done = simple_evaluate(
                self.model,
                tasks=[common | source | task],
                task_manager=self.tasks,
                bootstrap_iters=0,
                log_samples=False,
            )
        return {key.split(",")[0]: value for key, value in done["results"]["local"].items()}


ROLLING_TASK = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in ROLLING],
}
LAMBADA_TASK = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
    "doc_to_target": "{{' '+text.split(' ')[-1]}}",
    "metric_list": [{"metric": "perplexity", "aggregation": "perplexity"}, {"metric": "acc"}],
}


def compare_perplexity(directory: Path, harness: Harness, documents: list[str], args: argparse.Namespace) -> None:
    """Print the perplexities of both, and the ratio of their speeds."""
    world = join()
    tokenizer = Tokenizer.load(directory)
    length = Pretrained.read(directory).shape.context_length
    forward = load_forward(directory, tokenizer, None, 0, world)

    def ours() -> float:
        text = HeldOut.of_texts(documents, tokenizer)
        return score(
            forward, text, length, length, args.batch_size, world, prefix=True, per_document=True
        ).nll_sum

    times = in_turns(args.rounds, ours=ours, harness=lambda: harness.rolling(documents))
    text = HeldOut.of_texts(documents, tokenizer)
    setting = EvaluationConfig(length, length, "end-of-text", per_document=True, batch_size=args.batch_size)
    result = evaluate(directory, text, setting, world)
    theirs = harness.task(documents, **ROLLING_TASK)
    print(f"{text.totals.documents} documents, {result['targets']:,} tokens, {length} positions, fp32")
    result["byte_perplexity"] = 2 ** result["bits_per_byte"]
    for name in ROLLING:
        print_pair(name, result[OURS.get(name, name)], theirs[name])
    speed = {name: result["targets"] / seconds for name, seconds in times.items()}
    print_line("tokens per second", f"{speed['ours']:,.0f}  harness {speed['harness']:,.0f}")
    ratio = speed["ours"] / speed["harness"]
    how = f"median of {args.rounds} rounds, batch size {args.batch_size}, {torch.get_num_threads()} CPU threads"
    print_line("ratio", f"{ratio:.2f} ({how})")


def compare_lambada(directory: Path, harness: Harness, passages: list[str], batch_size: int) -> None:
    """Print the LAMBADA results of both."""
    result = lambada(directory, passages, join(), batch_size)
    theirs = harness.task(passages, **LAMBADA_TASK)
    print(f"{result['examples']} passages")
    print_pair("perplexity", result["perplexity"], theirs["perplexity"])
    print_pair("accuracy", result["accuracy"], theirs["acc"])


def print_pair(name: str, ours: float, theirs: float) -> None:
    """Print one measure of both."""
    difference = abs(ours - theirs) / abs(theirs) if theirs else abs(ours - theirs)
    print_line(name, f"{ours:.8g}  harness {theirs:.8g}  relative difference {difference:.1e}")


def print_line(name: str, text: str) -> None:
    """Print a line of the table."""
    print(f"{name:>18}  {text}")


def in_turns(rounds: int, **work: Callable[[], object]) -> dict[str, float]:
    """Return the median seconds of each piece of work, run alternately."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def random_model(directory: Path, preset: str, tokenizer_directory: Path) -> Path:
    """Write a randomly initialised model of a preset, and return its directory."""
    tokenizer = Tokenizer.load(tokenizer_directory)
    shape = Shape(*PRESETS[preset], PRESET_CONTEXT_LENGTH, tokenizer.vocab_size)
    write_huggingface_config(directory, shape, tokenizer.end_of_text_id, 0.0)
    tokenizer.save(directory)
    parameters = LanguageModel(shape, tokenizer.end_of_text_id).gpt2.named_parameters()
    # A checkpoint stores the embedding without its padding rows.
    weights = {
        name: tensor.detach()[: shape.vocab_size if "wte" in name else None] for name, tensor in parameters
    }
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


if __name__ == "__main__":
    main()
