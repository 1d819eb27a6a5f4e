"""`gpt2dist report`: the page of a real run, and of one with hardly anything in it."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.model.find_model import fingerprint
from tests.support.runs import metrics, train, write_run

VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """The text of a page; fails where its tags do not close each other."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.source = [], [], "", text
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run(tiny_dataset, tmp_path_factory):
    config = write_run(tmp_path_factory.mktemp("report"), tiny_dataset, validation=True)
    samples = "monitoring.samples={prompts: [abc], every_steps: 6, max_new_tokens: 3}"
    return train(config, "schedule.total_steps=6", "evaluation.every_steps=3", samples)


def report(gpt2dist, run, tmp_path):
    path = tmp_path / "pages/report.html"
    assert gpt2dist("report", run, "--output", path) == (0, f"{path}\n", "")
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_of_a_run_has_all_of_it(gpt2dist, run, tmp_path, tiny_dataset):
    page = report(gpt2dist, run, tmp_path)
    for heading in ("Summary", "Curves", "Samples", "Lineage", "Starts", "Configuration", "Environment"):
        assert heading in page.text
    assert "finished" in page.text and "6 of 6 (100 %)" in page.text
    assert (
        "n_embd: 32" in page.text
        and "null" not in page.text[page.text.index("Configuration") :].split("Environment")[0]
    )
    for fact in ("parameters", "tokens", "epochs", "hardware", "start", "end", "wall time", "command"):
        assert f"{fact}" in page.text
    assert re.search(r"best evaluation *val at step \d: loss", page.text)
    assert metrics(run, "samples/0")[-1] in page.text
    manifest = Manifest.load(tiny_dataset)
    raw = json.loads((tiny_dataset / "manifest.json").read_bytes())
    weights = fingerprint(run / "checkpoints/step-00000006")
    hashes = (raw["sources"]["listing_sha256"], manifest.tokenizer_fingerprint, manifest.fingerprint, weights)
    places = [page.text.index(each[:12]) for each in hashes]
    assert places == sorted(places)
    (bits,) = re.findall(r"result *val at step 6: loss [\d.]+, ([\d.]+) bits per byte", page.text)
    assert float(bits) == pytest.approx(metrics(run, "eval/val/bits_per_byte")[-1], abs=1e-4)
    charts = [
        json.loads(each) for each in re.findall(r'<script type="application/json">(.*?)</script>', page.source)
    ]
    counts = [[(each["name"], len(each["values"])) for each in chart] for chart in charts]
    # Loss, bits, speed (not of the first step), norm, learning rate, memory.
    assert counts == [[("training", 6), ("val", 2)], [("val", 2)], [("", 5)], *[[("", 6)]] * 3]
    assert charts[0][1]["colour"] == charts[1][0]["colour"] != charts[0][0]["colour"]
    assert charts[0][0]["values"] == pytest.approx(metrics(run, "train/loss"), rel=1e-4)
    assert charts[0][0]["tokens"] == sorted(set(metrics(run, "progress/tokens")))


def test_another_manifest_of_the_same_tokens_is_told(gpt2dist, run, tiny_dataset, tmp_path):
    facts = json.loads((run / "environment.json").read_text())
    assert facts["dataset_manifests"] == {str(tiny_dataset): Manifest.load(tiny_dataset).sha256}
    for digest, told in ((facts["dataset_manifests"][str(tiny_dataset)], False), ("0" * 64, True)):
        home = tmp_path / digest / "run"
        home.mkdir(parents=True)
        (home / "lock").touch()
        changed = facts | {"dataset_manifests": {str(tiny_dataset): digest}}
        (home / "environment.json").write_text(json.dumps(changed))
        assert ("(manifest changed since)" in report(gpt2dist, home, tmp_path).text) is told


def test_it_fetches_nothing(gpt2dist, run, tmp_path):
    page = report(gpt2dist, run, tmp_path)
    assert {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object"} == set()
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)


def test_what_a_run_says_is_text_and_no_markup(gpt2dist, tmp_path):
    run = tmp_path / "<i>run"
    (run / "eval").mkdir(parents=True)
    nasty = "<script>alert(1)</script> & \ud800"
    lines = [{"step": 1, "train/loss": None}, {"step": 2, "train/loss": 3.0, "samples/0": nasty}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    (run / "config.yaml").write_text("run: {name: '<b>bold</b>'}\n")
    (run / "environment.json").write_text(json.dumps({"datasets": {"/gone<p>": "f" * 64}}))
    for number, changed in ((1, {}), (2, {"run.name": ["<u>", "<s>"]})):
        path = run / f"starts/{number:03d}/environment.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"time": 1.8e9, "step": 7 * number, "world_size": 4, "changed": changed}))
    (run / "eval/step-00000002.json").write_text(
        json.dumps({"</text><script>": {"loss": 2.0}, "x": {"loss": None}})
    )
    page = report(gpt2dist, run, tmp_path)
    assert {tag for tag, _ in page.tags} & {"b", "u", "s"} == set()
    assert "<script>alert(1)</script> & ?" in page.text
    assert "/gone<p> (moved or changed since)" in page.text
    assert "x at step 2: loss not finite" in page.text
    starts = page.text[page.text.index("Starts") :]
    assert re.search(r"001.*at step 7, 4 ranks002.*at step 14, 4 ranksrun\.name <u> → <s>", starts)


def test_its_path_is_told_and_lies_in_the_run_by_default(gpt2dist, run):
    assert gpt2dist("report", run) == (0, f"{run / 'report.html'}\n", "")
    assert (run / "report.html").is_file()


def test_several_runs_share_a_page(gpt2dist, run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text('{"step": 3, "train/loss": 9.0}\n')
    assert gpt2dist("report", run, other, "--output", tmp_path / "r.html")[0] == 0
    source = (tmp_path / "r.html").read_text()
    first = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', source)[0])
    assert [each["values"][-1] for each in first if each["name"] == "other, training"] == [9.0]
    assert len({each["colour"] for each in first}) == len(first) == 3
    words = "gpt2dist report: several runs need --output F.html, the page that they share\n"
    assert gpt2dist("report", run, other) == (2, "", words)


def test_a_run_that_has_just_begun(gpt2dist, tmp_path):
    (tmp_path / "run/logs").mkdir(parents=True)
    (tmp_path / "run/lock").touch()
    page = report(gpt2dist, tmp_path / "run", tmp_path)
    assert "Curves" not in page.text and "Samples" not in page.text


def test_mistakes(gpt2dist, run, tmp_path):
    code, out, err = gpt2dist("report", tmp_path, "--output", tmp_path / "r.html")
    words = f"{tmp_path}: not a run directory; `gpt2dist status DIR` lists those in a folder"
    assert (code, out, err) == (2, "", f"gpt2dist report: {words}\n")
    code, out, err = gpt2dist("report", run, "--output", tmp_path)
    words = f"--output: {tmp_path} is a directory; name a file, such as {tmp_path}/output"
    assert (code, out, err) == (2, "", f"gpt2dist report: {words}\n")


def test_it_needs_no_torch(run, tmp_path):
    code = (
        "import sys; from gpt2dist.cli import main; "
        f"main(['report', {str(run)!r}, '--output', {str(tmp_path / 'r.html')!r}]); "
        "print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
