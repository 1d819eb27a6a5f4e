"""Train a tiny GPT-2 on a text file, all in Python: tokenizer, dataset, training, evaluation, samples, plot.

    python examples/in_python.py                         the manual of Python, which comes with it
    python examples/in_python.py shakespeare.txt tiny/   another text, and the directory to write to

It takes less than a minute on the CPU of a laptop. The same lines work in a notebook.
"""

import sys
from pathlib import Path
from pydoc_data.topics import topics

import gpt2dist


def main(text: str, home: Path, steps: int = 150) -> None:
    """Train on `text`, and write everything below `home`."""
    home.mkdir(parents=True, exist_ok=True)
    corpus = home / "corpus.txt"
    corpus.write_text(text, encoding="utf-8")

    # 1. A tokenizer of the text, and the text as tokens: nine parts for training, one for validation.
    gpt2dist.Tokenizer.train([text], vocab_size=512).save(home / "tokenizer")
    dataset = gpt2dist.Dataset.build(
        corpus, home / "tokenizer", home / "dataset", document_separator="\n\n", val_fraction=0.1
    )
    print(f"{dataset.totals('train').tokens:,} tokens, such as {dataset.tokens('train', [0], 8)}")

    # 2. A model of two layers, trained in this process. The keys are those of the files in configs/.
    config = gpt2dist.Config.from_dict(
        {
            "run": {"name": "tiny", "output_dir": home / "run"},
            "model": {"n_layer": 2, "n_head": 4, "n_embd": 64, "context_length": 64},
            "data": {"train": [{"path": dataset}], "validation": [{"path": dataset}]},
            "batch": {"global_batch_size": 16, "micro_batch_size": 16},
            "optimizer": {"lr": 3e-3},
            "schedule": {"total_steps": steps, "warmup_steps": steps // 10},
            "monitoring": {"log_every_steps": max(1, steps // 50)},
        }
    )
    run = gpt2dist.train(config)

    # 3. How well it predicts text that it has not seen.
    result = gpt2dist.evaluate(run, dataset)
    print(f"perplexity {result['perplexity']:.1f}, {result['bits_per_byte']:.2f} bits per byte")

    # 4. What it writes.
    for sample in gpt2dist.generate(run, "The", num_samples=2, max_new_tokens=60):
        print(f"The{sample}\n")

    # 5. The loss: here as a line of blocks, in report.html as a chart, and for matplotlib as two arrays.
    steps_done, losses = run.metrics()["train/loss"]
    span = max(losses) - min(losses) or 1
    print("loss", "".join("▁▂▃▄▅▆▇█"[int(7 * (loss - min(losses)) / span)] for loss in losses), losses[-1])
    print(f"{len(steps_done)} points; as a page: {run.report(home / 'report.html')}")

    # 6. A model directory for transformers.
    print(f"model: {gpt2dist.export(run, home / 'model')}")


if __name__ == "__main__":
    given = Path(sys.argv[1]).read_text(encoding="utf-8") if sys.argv[1:] else "\n\n".join(topics.values())
    main(given, Path(sys.argv[2] if sys.argv[2:] else "runs/in-python"))
