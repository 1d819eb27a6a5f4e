"""Model card (README.md) of an exported model, with the hub's metadata. It contains no local paths."""

import contextlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gpt2dist import __version__
from gpt2dist.config import Config
from gpt2dist.evaluation.measure import MeasureInfo
from gpt2dist.evaluation.measures import OURS
from gpt2dist.publishing.exporter import Exported
from gpt2dist.publishing.origin import AS_TASK, OF_CHOICES, OF_LAST_WORDS, ModelProvenance, Result
from gpt2dist.tokenizer.tokenizer import Tokenizer
from gpt2dist.training.optimizers import OPTIMIZERS, optimizer_kind

WHOLE_TEXTS = """\
Every token is scored once, in windows of the sequence length that begin a stride apart. Perplexity is
exp(Σ nll / tokens) and depends on the tokenizer; word perplexity (per whitespace-separated word) and bits per
byte (of the UTF-8 text) come from the same Σ nll and do not. lm-evaluation-harness also counts white space at
either end of a document as a word."""
LAST_WORDS = """\
Of {names}, only the last word of each passage is scored: accuracy is the share of passages in which each of its
tokens is the likeliest, and perplexity is exp(Σ nll / passages)."""
CHOICES = """\
Of {names}, acc is the share of questions whose right choice has the highest log-likelihood, acc_norm the share of
those where it has the highest one per character."""
TASKS = """\
{names}: as the tasks of lm-evaluation-harness of these names compute them."""
KINDS = {"": WHOLE_TEXTS, OF_LAST_WORDS: LAST_WORDS, OF_CHOICES: CHOICES, AS_TASK: TASKS}
"""What was scored, as a result's protocol says → the explanation of its scores."""
PROMPT = "Once upon a time"


def model_card(
    name: str, directory_name: str, origin: ModelProvenance, exported: Exported, license: str | None
) -> str:
    """Return the text of the model card.

    Args:
        name: Name of the model.
        directory_name: Name of the directory that holds the model, or its name on the hub.
        origin: Provenance of the model.
        exported: The files that were written.
        license: The hub's identifier of the license; None omits it.
    """
    sections = [
        f"# {name}\n\n{_summary(origin, exported)}\n\n{_sizes(origin, exported)}",
        f"## Use\n\n{_use(directory_name, origin.shape.context_length, exported)}",
        f"## Training\n\n{_training(origin)}" if origin.state else "",
        f"## Evaluation\n\n{_evaluation(origin.results)}" if origin.results else "",
        f"## Versions\n\n{_versions(origin)}",
    ]
    return (
        f"---\n{metadata(name, origin, license).to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"
    )


def metadata(name: str, origin: ModelProvenance, license: str | None) -> ModelCardData:
    """Return the metadata that the hub reads from the card."""
    results = [entry for result in origin.results for entry in _entries(result)]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["gpt2", "gpt2dist", "text-generation"],
        license=license,
        base_model=origin.base_model,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _entries(result: Result) -> Iterator[EvalResult]:
    how = {key: value for key, value in result.protocol.items() if key != "split"}
    for measure in result.shown:
        yield EvalResult(
            task_type="text-generation",
            task_name="Language modeling",
            dataset_type=result.name,
            dataset_name=result.name,
            dataset_split=result.protocol.get("split"),
            dataset_args={"fingerprint": result.data} if result.data else None,
            metric_type=measure.key,
            metric_name=measure.title,
            metric_value=result.measures[measure.key],
            metric_args=how or None,
        )


def _summary(origin: ModelProvenance, exported: Exported) -> str:
    made = "trained by gpt2dist" if origin.state else "written by gpt2dist"
    text = f"A GPT-2 of {exported.parameters:,} parameters, {made} {__version__}."
    if not origin.base_source:
        return text
    name, _, commit = origin.base_source.partition("@")
    base = f"{name} at revision `{commit}`"
    return f"{text} Its training began with the weights of {base}." if origin.state else f"{text} It is {base}."


def _sizes(origin: ModelProvenance, exported: Exported) -> str:
    shape, tokenizer = origin.shape, exported.tokenizer
    return _table(
        [
            ("layers", shape.n_layer),
            ("heads", shape.n_head),
            ("width", shape.n_embd),
            ("context", f"{shape.context_length:,} tokens"),
            ("vocabulary", f"{shape.vocab_size:,} tokens, {_kind(tokenizer)}, {_short(tokenizer.fingerprint)}"),
            ("weights", f"{exported.dtype}, {exported.bytes / 1e6:,.1f} MB"),
            ("checkpoint", _short(origin.fingerprint)),
        ]
    )


def _kind(tokenizer: Tokenizer) -> str:
    if tokenizer.losses:
        return f"{tokenizer.model}, which may lose some of the text"
    kind = "a token per character" if tokenizer.is_character_level else "byte-level BPE"
    return f"{kind} after the normalizer {tokenizer.normalizer}" if tokenizer.normalizer else kind


def _use(directory_name: str, context_length: int, exported: Exported) -> str:
    tokenizer = exported.tokenizer
    known = not tokenizer.unknown_characters(PROMPT) and len(tokenizer.encode(PROMPT)) < context_length
    prompt = PROMPT if known else tokenizer.end_of_text
    return f"""\
```python
from transformers import pipeline

generator = pipeline("text-generation", model={_quoted(directory_name)})  # this directory, or its name on the hub
print(generator({_quoted(prompt)})[0]["generated_text"])
```

`GPT2LMHeadModel`, `GPT2ForSequenceClassification`, `GPT2ForTokenClassification` and `GPT2ForQuestionAnswering`
load it with `from_pretrained`, and `AutoTokenizer` its tokenizer. `{tokenizer.end_of_text}` begins and ends a
text, and pads batches (on the left in generation: `padding_side="left"`)."""


def _training(origin: ModelProvenance) -> str:
    state = origin.state
    assert state
    datasets = [
        (Path(each["path"]).name, _short(each["fingerprint"]), f"{each['share']}") for each in state.datasets
    ]
    shares = "Each dataset is named with the fingerprint of its tokens and its share of the samples."
    return "\n\n".join(
        [
            _table(datasets, ("dataset", "fingerprint", "share")),
            shares,
            _table([*_progress(origin), *_configuration(origin)]),
        ]
    )


def _progress(origin: ModelProvenance) -> Iterator[tuple[str, Any]]:
    state = origin.state
    assert state
    yield "optimizer steps", f"{state.step:,}"
    if origin.chosen_by:
        yield "chosen as", f"the best checkpoint of the run by {origin.chosen_by}"
    yield "tokens trained on", f"{state.consumed_tokens:,} (counting repetitions)"
    if state.step:
        yield "tokens per step", f"{state.consumed_tokens // state.step:,} on average"
    order = state.order
    yield (
        "global batch",
        f"{order['batch.global_batch_size']:,} windows of {order['data.sequence_length']:,} tokens",
    )
    yield "stride", f"{order['data.stride']:,} tokens, loss on {order['data.loss_on']}"
    yield "document boundaries", order["data.document_boundaries"]
    yield "seed", order["run.seed"]
    yield "precision", state.precision
    yield "processes", f"{state.world_size} with ZeRO stage {state.zero_stage}"


def _configuration(origin: ModelProvenance) -> Iterator[tuple[str, Any]]:
    if not origin.config:
        return
    optimizer, schedule = origin.config.optimizer, origin.config.schedule
    yield "optimizer", _optimizer(origin.config)
    yield "gradient norm", f"at most {optimizer.clip_grad_norm}" if optimizer.clip_grad_norm else "not clipped"
    yield "learning rate", optimizer.lr
    for key, value in schedule.model_dump(exclude_none=True).items():
        yield f"schedule: {key.replace('_', ' ')}", value
    if origin.config.run.allow_tf32:
        yield "fp32 products", "in TF32 where the GPU has it"
    yield "dropout", origin.config.model.dropout
    for step, change in origin.changes:
        yield f"changed at step {step:,}", change


def _optimizer(config: Config) -> str:
    """Describe the optimizer in its own words if it has a name here, else by its kind and options.

    A class that only the configuration of the run names is not imported: that file may be from elsewhere.
    """
    section = config.optimizer
    if section.kind in OPTIMIZERS.names():
        with contextlib.suppress(ValueError):  # another version of the package has other options
            return optimizer_kind(config).describe()
    return ", ".join([section.kind, *(f"{key} {value}" for key, value in section.options.items())])


def _evaluation(results: tuple[Result, ...]) -> str:
    shown = {each.key: each for result in results for each in result.shown}
    rows = [
        (
            result.name,
            *(_number(result, each) for each in shown.values()),
            ", ".join(_words(key, value) for key, value in result.protocol.items()),
        )
        for result in results
    ]
    notes = [
        *(
            _explained_kind(kind, [result.name for result in results if _scored(result) == kind])
            for kind in KINDS
        ),
        *(_explained(each) for each in shown.values() if each not in OURS),
        "The scores are those of the checkpoint, before its weights were rounded.",
    ]
    table = _table(rows, ("data", *(each.title for each in shown.values()), "how"))
    return "\n\n".join([table, *filter(None, notes)])


def _scored(result: Result) -> str:
    """Return how a result was scored, one of `KINDS`."""
    return str(result.protocol.get("scored", ""))


def _explained_kind(kind: str, names: list[str]) -> str:
    """Explain the scores of the results of a kind; empty if there are none."""
    return KINDS[kind].format(names=", ".join(names)) if names else ""


def _number(result: Result, measure: MeasureInfo) -> str:
    value = result.measures.get(measure.key)
    return "" if value is None else f"{value:,.{measure.table_digits}f}"


def _explained(measure: MeasureInfo) -> str:
    """Explain a measure of another package."""
    formula = f" is {measure.formula}" if measure.formula else ""
    unit = f" ({measure.unit})" if measure.unit else ""
    return f"{measure.title[:1].upper()}{measure.title[1:]}{unit}{formula}; {measure.better} is better."


def _words(key: str, value: Any) -> str:
    key = key.replace("_", " ")
    return key if value is True else f"{key} {value}"


def _versions(origin: ModelProvenance) -> str:
    environment = origin.environment
    rows = [
        ("exported with", f"gpt2dist {__version__}, transformers {importlib.metadata.version('transformers')}")
    ]
    if environment.gpt2dist:
        rows += [
            ("trained with", f"gpt2dist {environment.gpt2dist}, Python {environment.python}"),
            ("", ", ".join(f"{name} {version}" for name, version in environment.packages.items())),
        ]
    if environment.git_commit:
        rows.append(("commit", environment.git_commit))
    if environment.gpu:
        rows.append(("device", environment.gpu))
    return _table(rows)


def _table(rows: Iterable[tuple[Any, ...]], head: tuple[str, ...] | None = None) -> str:
    rows = list(rows)
    head = head or ("",) * len(rows[0])
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _short(fingerprint: str) -> str:
    return f"sha256 `{fingerprint[:12]}`"
