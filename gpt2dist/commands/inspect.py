"""`gpt2dist inspect`: show the contents of a dataset directory."""

import argparse
import sys
from dataclasses import asdict

from gpt2dist import json_files
from gpt2dist.dataset.manifest import RECORD, SHA256_KEY, Manifest, without_sha256
from gpt2dist.errors import UserError
from gpt2dist.monitoring.progress import info
from gpt2dist.terminal import say
from gpt2dist.tokenizer.text_changes import described

EPILOG = """\
examples:
  gpt2dist inspect dataset/                      show sizes, options and sources
  gpt2dist inspect dataset/ --verify             read all files and check hashes, counts and format
  gpt2dist inspect dataset/ --verify --seal      and accept a manifest.json that was edited on purpose
  gpt2dist inspect dataset/ --document 7         show the text of the eighth document of train
  gpt2dist inspect dataset/ --window 3 --sequence-length 1024 --stride 512 --split val
                                                 show the text of a window, and which tokens it trains or scores
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EPILOG
    parser.add_argument("dataset", metavar="DATASET", help="a dataset directory")
    parser.add_argument(
        "--verify", action="store_true", help="read all files and check them against the manifest"
    )
    parser.add_argument(
        "--seal",
        action="store_true",
        help="with --verify: if the files agree with the manifest as it is now, write its hash, manifest_sha256",
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.add_argument("--split", default="train", help="split of --document and --window; default: %(default)s")
    parser.add_argument("--document", type=int, metavar="I", help="show document I of the split, from 0")
    parser.add_argument("--window", type=int, metavar="I", help="show window I of the split, from 0")
    parser.add_argument("--sequence-length", type=int, metavar="L", help="tokens per window")
    parser.add_argument(
        "--stride",
        type=int,
        metavar="S",
        help="tokens between the starts of windows; default: L, without overlap",
    )


def run(args: argparse.Namespace) -> int | None:
    """Print the parts of the dataset that the options select."""
    if args.window is not None and args.sequence_length is None:
        raise UserError("--window needs --sequence-length, and --stride if windows overlap")
    if args.seal and not args.verify:
        raise UserError("--seal needs --verify: only a manifest that agrees with the files can be sealed")
    manifest = Manifest.load(args.dataset, changed=args.verify)
    result, texts = summary(manifest), [describe(manifest)]
    if args.verify:
        _verify(manifest, args.seal)
        result["verified"] = True
        result[SHA256_KEY] = manifest.sha256
        sealed = f"; wrote {SHA256_KEY} {manifest.sha256[:12]}" if args.seal else ""
        texts.append(f"  verified: every shard is as it was written{sealed}")
    if args.document is not None:
        result["document"] = document = show_document(manifest, args.split, args.document)
        texts.append(
            f"\ndocument {args.document} of {args.split}, {document['tokens']} tokens:\n{document['text']}"
        )
    if args.window is not None:
        result["window"] = show_window(manifest, args.split, args.window, args.sequence_length, args.stride)
        texts.append(f"\n{describe_window(result['window'])}")
    if note := without_sha256([manifest]):
        info(note, "inspect")
    if args.json:
        say(json_files.dump(result), sys.stdout)
    else:
        say("\n".join(texts), sys.stdout)
    return None


def summary(manifest: Manifest) -> dict:
    """Return the description of a dataset for `--json`."""
    content = asdict(manifest)
    content["directory"] = str(manifest.directory)
    content[SHA256_KEY] = content.pop("sha256")
    content["fingerprint"] = manifest.fingerprint
    content["totals"] = {split: asdict(manifest.totals(split)) for split in manifest.splits}
    return content


def describe(manifest: Manifest) -> str:
    """Describe a dataset in a few lines of text."""
    lines = [str(manifest.directory)]
    row = "  {:<8}{:>12}{:>18}{:>18}{:>13}{:>16}{:>8}".format
    lines.append(row("split", "documents", "tokens", "bytes", "bytes/token", "words", "shards"))
    for split in manifest.splits:
        totals = manifest.totals(split)
        counts = [f"{totals.documents:,}", f"{totals.tokens:,}", f"{totals.bytes:,}"]
        ratio = f"{totals.bytes / max(totals.tokens, 1):.2f}"
        lines.append(row(split, *counts, ratio, f"{totals.words:,}", len(manifest.shards_of(split))))
    skipped = {reason: count for reason, count in manifest.left_out.items() if count}
    records = [
        f"{key.removeprefix(RECORD)} {count:,}" for key, count in skipped.items() if key.startswith(RECORD)
    ]
    reasons = [f"{key.replace('_', ' ')} {n:,}" for key, n in skipped.items() if not key.startswith(RECORD)]
    listings = ["rejected.jsonl"] * bool(skipped.get("rejected")) + ["filtered.jsonl"] * bool(manifest.filtered)
    listed = f" (see {' and '.join(str(manifest.directory / name) for name in listings)})" if listings else ""
    options = ", ".join(f"{name} {value}" for name, value in manifest.options.items() if value)
    sources = manifest.sources
    lines += [
        f"  documents skipped: {', '.join(reasons) or 'none'}{listed}; repaired {manifest.repaired:,}",
        *([f"  records without text: {', '.join(records)}"] if records else []),
        f"  vocabulary {manifest.vocab_size:,} as {manifest.dtype}, end-of-text {manifest.end_of_text_id}, "
        f"tokenizer {manifest.tokenizer_fingerprint[:12]}"
        + (f" ({manifest.tokenizer_source})" if manifest.tokenizer_source else ""),
        f"  from {sources.get('files', 0):,} files of {sources.get('bytes', 0):,} bytes; {options}",
        f"  fingerprint {manifest.fingerprint[:12]}",
    ]
    if manifest.text_changes:
        lines.insert(-1, f"  text changes: {described(manifest.text_changes)}")
    return "\n".join(lines)


def show_document(manifest: Manifest, split: str, number: int) -> dict:
    """Return document `number` (0-based) of a split, with its shard and token count.

    Raises:
        UserError: The split has no such document.
    """
    from gpt2dist.dataset.dataset import open_shard, require_counts
    from gpt2dist.tokenizer.tokenizer import Tokenizer

    documents = manifest.totals(split).documents
    if not 0 <= number < documents:
        raise UserError(f"--document {number}: {split} has documents 0 … {documents - 1}")
    left = number
    for record in manifest.shards_of(split):
        if left < record.documents:
            break
        left -= record.documents
    shard = open_shard(manifest, record)
    require_counts(shard, manifest, record)
    tokens = shard.document(left)
    text = Tokenizer.load(manifest.directory).decode(tokens)
    return {"split": split, "index": number, "shard": record.name, "tokens": len(tokens), "text": text}


def show_window(manifest: Manifest, split: str, number: int, length: int, stride: int | None) -> dict:
    """Return window `number` (0-based) of a split, with its text split into context and owned targets.

    Raises:
        UserError: The split has no such window, or the length or stride is out of range.
    """
    import numpy as np

    from gpt2dist.dataset.provenance import StreamDocuments
    from gpt2dist.loading.token_stream import TokenStream
    from gpt2dist.loading.windows import Windows
    from gpt2dist.tokenizer.tokenizer import Tokenizer

    stride = length if stride is None else stride
    stream = TokenStream.open(manifest, split)
    if not 1 <= stride <= length:
        raise UserError(f"--stride {stride}: must be between 1 and --sequence-length {length}")
    if length >= len(stream):
        raise UserError(f"--sequence-length {length}: {split} has {len(stream)} tokens; give a smaller number")
    windows = Windows(tokens=len(stream), sequence_length=length, stride=stride)
    if not 0 <= number < len(windows):
        raise UserError(
            f"--window {number}: {split} has windows 0 … {len(windows) - 1} of that length and stride"
        )
    index = np.array([number])
    start, owned_from = int(windows.starts(index)[0]), int(windows.owned_from(index)[0])
    tokens = stream.read(np.array([start]), length + 1)[0]  # the inputs and the last target
    tokenizer = Tokenizer.load(manifest.directory)
    return {
        "split": split,
        "index": number,
        "windows": len(windows),
        "start": start,
        "sequence_length": length,
        "stride": stride,
        "owned_from": owned_from,
        "documents": [
            asdict(document) for document in StreamDocuments(manifest, split).between(start, start + length + 1)
        ],
        "context": tokenizer.decode(tokens[: owned_from + 1]),
        "owned": tokenizer.decode(tokens[owned_from + 1 :]),
    }


def describe_window(window: dict) -> str:
    """Describe a window in text."""
    start, length, owned_from = window["start"], window["sequence_length"], window["owned_from"]
    documents = "".join(
        f"  document {document['number']:,}, tokens {document['start']:,} … {document['end'] - 1:,}"
        f"{_origin(document['origin'])}\n"
        for document in window["documents"]
    )
    return (
        f"window {window['index']} of {window['windows']:,} of {window['split']}: reads the tokens {start:,} … "
        f"{start + length - 1:,}, owns the targets {start + owned_from + 1:,} … {start + length:,}\n{documents}"
        f"--- context ({owned_from + 1} tokens) ---\n{window['context']}\n"
        f"--- owned ({length - owned_from} tokens) ---\n{window['owned']}"
    )


def _origin(origin: dict | None) -> str:
    from gpt2dist.dataset.provenance import SourceLocation

    return f", from {SourceLocation(**origin)}" if origin else ""


def _verify(manifest: Manifest, seal: bool) -> None:
    from gpt2dist.dataset.verify import token_bytes, verify
    from gpt2dist.monitoring.progress import Progress

    with Progress("verify", token_bytes(manifest), "B", scale=True) as progress:
        verify(manifest, progress.advance, seal)
