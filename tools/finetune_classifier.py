"""Fine-tune a GPT-2 to classify texts, with transformers' Trainer.

    python tools/finetune_classifier.py MODEL reviews.jsonl --output classifier/

MODEL is an output of `gpt2dist export`, a checkpoint, a run directory or a hub name. Each line of the file has a
text and its label: {"text": "what a film", "label": "good"}. A fifth of the texts is held out. The accuracy on
them is printed next to that of always guessing the most common label. The output directory can then be loaded
with `pipeline("text-classification")`.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2dist.checkpoint.manifest import require_whole_model
from gpt2dist.errors import UserError
from gpt2dist.model.find_model import locate
from gpt2dist.monitoring.logs import quiet_libraries
from gpt2dist.output_paths import check_directory


@dataclass(frozen=True)
class Example:
    """A text and its label."""

    text: str
    label: str


def main(argv: list[str] | None = None) -> int:
    """Fine-tune a classifier, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", type=Path, metavar="F.jsonl")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to create")
    parser.add_argument(
        "--held-out", type=Path, metavar="F.jsonl", help="texts to test on, instead of a fifth of the data"
    )
    parser.add_argument("--epochs", type=float, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--lr", type=float, default=5e-5, help="learning rate; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, metavar="B", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        check_directory(args.output)
        train, test = examples(args.data, args.held_out)
        report(finetune(args, train, test), test, args.output)
    except UserError as error:
        print(f"finetune_classifier: {error}", file=sys.stderr)
        return 2
    return 0


def examples(data: Path, held_out: Path | None) -> tuple[list[Example], list[Example]]:
    """Return the training examples and the test examples.

    Raises:
        UserError: A file or line is invalid, the training texts have fewer than two labels, no text is held out,
            or a held-out text has a label that no training text has.
    """
    found = list(read(data))
    if held_out:
        train, test = found, list(read(held_out))
    else:
        train = [example for example in found if not is_held_out(example)]
        test = [example for example in found if is_held_out(example)]
    labels = {example.label for example in train}
    if len(labels) < 2:
        raise UserError(
            f"{data}: its texts have {len(labels)} label(s); two are the least that can be told apart"
        )
    if not test:
        raise UserError(f"{held_out or data}: no text to test on; give more, or others with --held-out")
    if unknown := sorted({example.label for example in test} - labels):
        raise UserError(f"{held_out or data}: no text to train on has the label {unknown[0]!r}; give more of it")
    return train, test


def read(path: Path) -> Iterator[Example]:
    """Yield the examples in a file of JSON lines.

    Raises:
        UserError: The file cannot be read, or a line is not a valid example.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}; give a file of JSON lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text, label = record["text"], record["label"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{path}:{number}: not of the form {{"text": "…", "label": "…"}}') from None
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}:{number}: its text is empty or no string; leave the line out")
        if not isinstance(label, str | int):
            raise UserError(f"{path}:{number}: its label {label!r} is neither a string nor a whole number")
        yield Example(text, str(label))


def is_held_out(example: Example) -> bool:
    """Return whether a text is in the held-out fifth. Its hash decides, so that equal texts stay together."""
    return hashlib.sha256(example.text.encode("utf-8", "surrogatepass")).digest()[0] % 5 == 0


def finetune(args: argparse.Namespace, train: Sequence[Example], test: Sequence[Example]) -> float:
    """Train and save the classifier, and return its accuracy on the test texts.

    Raises:
        UserError: The model cannot be found or is incomplete, or the package accelerate is missing.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise UserError("transformers' Trainer needs the package accelerate; pip install accelerate")
    directory = locate(args.model)
    require_whole_model(directory)
    quiet_libraries()
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports DeepSpeed, which would warn
    set_seed(args.seed)  # for the initial weights of the new head
    model, tokenizer = load(directory, sorted({example.label for example in train}))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model,
            TrainingArguments(
                scratch,
                num_train_epochs=args.epochs,
                learning_rate=args.lr,
                warmup_steps=0.1,  # as a fraction of all steps
                weight_decay=0.01,
                per_device_train_batch_size=args.batch_size,
                per_device_eval_batch_size=args.batch_size,
                seed=args.seed,
                save_strategy="no",
                report_to="none",
                logging_strategy="epoch",
            ),
            train_dataset=features(train, model, tokenizer),
            eval_dataset=features(test, model, tokenizer),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda out: {"accuracy": (out.predictions.argmax(-1) == out.label_ids).mean().item()},
        )
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    return accuracy


def load(directory: Path, labels: Sequence[str]) -> tuple[Any, Any]:
    """Return the model with a new head for the labels, and its tokenizer."""
    from transformers import AutoTokenizer, GPT2ForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it would warn that the head's weights are new
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = GPT2ForSequenceClassification.from_pretrained(
        directory,
        dtype="float32",  # 16 bits would lose updates at a small learning rate
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    # The model reads the label at the last token that is not padding, so it must know the padding token.
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def features(examples: Sequence[Example], model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Return the Trainer's input: the tokens of each text, cut to the model's context, and its label's number."""
    texts = [example.text for example in examples]
    tokens = tokenizer(texts, truncation=True, max_length=model.config.n_positions)["input_ids"]
    return [
        {"input_ids": ids, "label": model.config.label2id[example.label]}
        for ids, example in zip(tokens, examples, strict=True)
    ]


def report(accuracy: float, test: Sequence[Example], output: Path) -> None:
    """Print the accuracy next to that of always guessing the most common label."""
    (label, count), *_ = Counter(example.label for example in test).most_common(1)
    print(f"accuracy {accuracy:.4f} on {len(test):,} held-out texts; always {label!r}: {count / len(test):.4f}")
    print(f'written {output}: transformers.pipeline("text-classification", "{output}")')


if __name__ == "__main__":
    sys.exit(main())
