"""The fingerprint of a job, by which it recognizes its unfinished work and its finished dataset."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io, json_files
from gpt2dist.corpus import Listing, Reading, common_directory, dated, relative_name
from gpt2dist.corpus.listing import line
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.corpus_plan import CorpusPlan
from gpt2dist.preprocessing.job import PreprocessingJob
from gpt2dist.tokenizer.tokenizer import Tokenizer

Named = tuple[str, dict[str, Any]]
"""A name, and the line of a source in sources.jsonl."""


@dataclass(frozen=True)
class JobFingerprint:
    """Identity of a job: a run resumes the unfinished work of a job with the same fingerprint.

    Attributes:
        plan: The manifest entries for tokenizer, options and sources.
        sources: The sources of the corpus.
    """

    plan: dict[str, Any]
    sources: Listing | CorpusPlan

    @classmethod
    def of(cls, job: PreprocessingJob, tokenizer: Tokenizer, sources: Listing | CorpusPlan) -> "JobFingerprint":
        """Return the fingerprint of a job with this tokenizer and these sources."""
        plan = {
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "options": job.options,
            "sources": sources.facts,
        }
        return cls(plan, sources)

    def lines(self) -> Iterator[str]:
        """Yield the lines of sources.jsonl, one per source of the corpus."""
        return map(line, self.sources)

    def differences(self, there: dict[str, Any], directory: Path) -> str:
        """Describe how `there`, the plan found in `directory`, differs from this one; empty if it does not."""
        options = asdict(Reading()) | there["options"]  # older plans lack newer options
        different = [
            f"--{name.replace('_', '-')} {options.get(name)} there, {value} here"
            for name, value in self.plan["options"].items()
            if options.get(name) != value
        ]
        if there["tokenizer_fingerprint"] != self.plan["tokenizer_fingerprint"]:
            different.append("another tokenizer")
        if not self._same_corpus(there["sources"]):
            different.append(f"another corpus ({self._corpus_difference(directory / 'sources.jsonl')})")
        return "; ".join(different)

    def _same_corpus(self, there: dict[str, Any]) -> bool:
        """Compare contents, regardless of paths; for version 0.1, paths and modification times."""
        if "content_sha256" in there:
            return bool(there["content_sha256"] == self.plan["sources"]["content_sha256"])
        if there["listing_sha256"] == self.plan["sources"]["listing_sha256"]:  # sources that are not local
            return True
        listing = atomic_io.TextHash()
        for source in dated(self.sources):
            listing.add(line(source) + "\n")
        return bool(there["listing_sha256"] == listing.hexdigest())

    def _corpus_difference(self, path: Path) -> str:
        def old() -> Iterator[dict[str, Any]]:
            return json_files.require_lines(path, {"path": str}, "")

        def new() -> Iterator[dict[str, Any]]:
            return map(vars, self.sources)

        try:
            kinds = _compare(_named(old(), None), _named(new(), None))
            if not (kinds["same"][0] or kinds["changed"][0]):  # moved
                roots = [common_directory(each["path"] for each in side()) for side in (old, new)]
                kinds = _compare(_named(old(), roots[0]), _named(new(), roots[1]))
        except UserError:  # the hashes differ anyway
            return f"{path} cannot be read"
        del kinds["same"]
        return ", ".join(f"{count} {kind}: {first} …" for kind, (count, first) in kinds.items() if count)


def _named(lines: Iterable[dict[str, Any]], root: str | None) -> Iterator[Named]:
    """Yield each line with its name: its path relative to `root`."""
    for each in lines:
        name = relative_name(each["path"], root)
        yield name, {**each, "path": name}


def _compare(there: Iterator[Named], here: Iterator[Named]) -> dict[str, tuple[int, str]]:
    """Compare two listings, both sorted by name.

    Returns:
        The number of sources that are new, gone, changed and the same, each with the name of the first.
    """
    found = dict.fromkeys(("new", "gone", "changed", "same"), (0, ""))
    old, new = next(there, None), next(here, None)
    while old or new:
        if old is None or (new is not None and new[0] < old[0]):
            kind, name = "new", new[0] if new else ""
        elif new is None or old[0] < new[0]:
            kind, name = "gone", old[0]
        else:
            kind, name = "same" if old[1] == new[1] else "changed", new[0]
        count, first = found[kind]
        found[kind] = count + 1, first or name
        if kind != "new":
            old = next(there, None)
        if kind != "gone":
            new = next(here, None)
    return found
