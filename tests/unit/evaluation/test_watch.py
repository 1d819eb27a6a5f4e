"""Following a run: whatever it does to its checkpoints meanwhile."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import checkpoint_name
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation import pins, watch
from gpt2dist.evaluation.pins import Pins
from gpt2dist.evaluation.results import EvaluationResults
from gpt2dist.evaluation.watch import checkpoints_to_score
from gpt2dist.model.find_model import fingerprint
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.huggingface import write_huggingface_config
from gpt2dist.model.pretrained import load_pretrained
from gpt2dist.model.shape import Shape
from gpt2dist.run.end_markers import write_finished
from tests.support.commands import wait_until
from tests.support.stores import ORDER

ALONE = World(0, 0, 1, torch.device("cpu"))
SHAPE = Shape(1, 2, 8, 16, 20)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    return tmp_path / "run"


@pytest.fixture
def record(run):
    return EvaluationResults(run, "val")


def save(run, step, seed=0, total=None):
    """Saves a checkpoint as a training job does: under another name, then in one piece."""
    final = run / "checkpoints" / checkpoint_name(step)
    partial = final.with_name(f"{final.name}.tmp")
    partial.mkdir()
    write_huggingface_config(partial, SHAPE, 19, 0.0)
    weights = {
        name: tensor.detach()[: SHAPE.vocab_size if "wte" in name else None].contiguous()
        for name, tensor in LanguageModel(SHAPE, 19, seed=seed).gpt2.named_parameters()
    }
    save_file(weights, partial / "model.safetensors", {"format": "pt"})
    (partial / "optimizer-00001-of-00001.safetensors").write_bytes(b"moments")
    TrainerState(step, step, step, step, True, 1e-3, {}, {}, 2.0, [], "t" * 64, ORDER, 1, 0, "fp32").write(
        partial
    )
    manifest.write(partial, {path.name: manifest.seal(path) for path in partial.iterdir()})
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    if total:
        (run / "environment.json").write_text(json.dumps({"total_steps": total}))
    return final


def prune(checkpoint):
    shutil.rmtree(checkpoint)


def result_of(model):
    measures = dict.fromkeys(("loss", "perplexity", "bits_per_byte", "word_perplexity"), 1.0)
    return measures | {"model": fingerprint(model)}


def follow(record, watching=False, meanwhile=None, waits=(), limit=20):
    """Scores what it is handed; `meanwhile` happens during each scoring, one of `waits` during each wait."""
    scored, told, waits = [], [], list(waits)

    def sleep(seconds):
        assert seconds == watch.POLL_SECONDS
        waits.pop(0)()

    for step, model in checkpoints_to_score(record, ALONE, watching, told.append, sleep):
        scored.append(step)
        assert len(scored) < limit, "it goes on for ever"
        if meanwhile:
            meanwhile(step)
        record.add(step, model, result_of(model))
    return scored, told


def test_oldest_first_and_again_none(run, record):
    for step in (30, 9, 100_000_000, 10):
        save(run, step)
    assert follow(record) == ([9, 10, 30, 100_000_000], [])
    assert follow(record) == ([], [])


def test_what_is_being_saved_or_removed_is_no_checkpoint(run, record):
    save(run, 10)
    for name in ("step-00000020.tmp", "step-00000005.old.tmp", "step-7", "other"):
        (run / "checkpoints" / name).mkdir()
    assert follow(record)[0] == [10]


def test_a_run_without_checkpoints(run, record):
    assert follow(record) == ([], [])
    (run / "checkpoints").rmdir()
    assert follow(record) == ([], [])


def test_a_checkpoint_that_is_pruned_while_it_is_scored_survives_as_links(run, record):
    original = save(run, 10)
    expected, whole = fingerprint(original), load_pretrained(original, torch.device("cpu"))
    inode = (original / "model.safetensors").stat().st_ino
    for step, model in checkpoints_to_score(record, ALONE, False, print):
        prune(original)
        assert step == 10
        assert (model / "model.safetensors").stat().st_ino == inode, "nothing was copied"
        assert not list(model.glob("optimizer-*")), "the moments of the optimizer are not held on to"
        manifest.require_whole_model(model)
        assert fingerprint(model) == expected
        loaded = load_pretrained(model, torch.device("cpu"))
        for ours, theirs in zip(loaded.parameters(), whole.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        record.add(step, model, result_of(model))
    assert not model.exists(), "the links went with the work"
    assert list(record.results()) == [10]


def test_the_links_go_also_when_the_work_fails(run, record):
    save(run, 10)
    with pytest.raises(ZeroDivisionError):
        follow(record, meanwhile=lambda step: 1 / 0)
    assert list(record.directory.iterdir()) == []


def test_what_a_killed_job_left_linked_is_replaced(run, record):
    save(run, 10)
    torn = record.directory / pins.LINKED / "step-00000010.tmp"
    torn.mkdir(parents=True)
    (torn / "model-00001-of-00001.safetensors").write_bytes(b"of another")
    assert follow(record)[0] == [10]
    assert record.results()[10]["model"] == fingerprint(run / "checkpoints/step-00000010")


def test_where_there_are_no_hard_links_files_are_copied(run, record, monkeypatch):
    def refuse(*_):
        raise PermissionError("not on this file system")

    save(run, 10)
    monkeypatch.setattr(os, "link", refuse)
    assert follow(record)[0] == [10]
    assert record.results()[10]["model"] == fingerprint(run / "checkpoints/step-00000010")


def test_one_that_is_pruned_between_the_look_and_the_link_is_passed_over(run, record, monkeypatch):
    doomed, _ = save(run, 10), save(run, 20)
    link = pins._link
    monkeypatch.setattr(pins, "_link", lambda *a, **o: (doomed.exists() and prune(doomed)) or link(*a, **o))
    assert follow(record)[0] == [20]


def test_one_that_is_pruned_while_it_is_linked_is_passed_over(run, record, monkeypatch):
    doomed, _ = save(run, 10), save(run, 20)
    link, linked = os.link, []

    def link_and_prune(source, target):
        linked.append(Path(source).name)
        link(source, target)
        if doomed.exists() and len(linked) == 2:
            doomed.rename(doomed.with_name(f"{doomed.name}.old.tmp"))

    monkeypatch.setattr(os, "link", link_and_prune)
    assert follow(record)[0] == [20]
    assert list(record.directory.iterdir()) == [record.directory / "step-00000020.json"]


def test_nothing_stays_of_the_only_one_that_is_pruned_while_it_is_linked(run, record, monkeypatch):
    doomed = save(run, 10)
    link = os.link
    monkeypatch.setattr(os, "link", lambda *args: (link(*args), doomed.exists() and prune(doomed)))
    assert follow(record)[0] == []
    assert list(record.directory.iterdir()) == []


def test_one_that_is_replaced_while_it_is_linked_is_linked_anew(run, record, monkeypatch):
    old = save(run, 10, seed=1)
    link, replaced = os.link, []

    def link_and_replace(source, target):
        link(source, target)
        if not replaced:
            replaced.append(old.rename(old.with_name("before")))
            save(run, 10, seed=2)

    monkeypatch.setattr(os, "link", link_and_replace)
    scored, _ = follow(record, watching=True, waits=[lambda: save(run, 20, total=20)])
    assert scored == [10, 20]
    assert record.results()[10]["model"] == fingerprint(run / "checkpoints/step-00000010")


def test_one_that_a_resumed_run_wrote_again_is_scored_anew(run, record):
    save(run, 10, seed=1)
    save(run, 20, seed=1)
    assert follow(record)[0] == [10, 20]
    before = record.results()
    save(run, 20, seed=2)
    assert follow(record)[0] == [20]
    after = record.results()
    assert after[10] == before[10] and after[20]["model"] != before[20]["model"]


def test_the_same_weights_saved_again_are_not_scored_again(run, record):
    save(run, 10, seed=1)
    follow(record)
    save(run, 10, seed=1)
    assert follow(record)[0] == []


def test_waiting_is_told_once_for_each_state(run, record):
    nothing, forty = (lambda: None), (lambda: save(run, 40))
    waits = [nothing, nothing, forty, nothing, nothing, lambda: save(run, 50, total=50)]
    scored, told = follow(record, watching=True, waits=waits)
    assert scored == [40, 50]
    assert told == ["no checkpoint yet", "step 40"]


def test_the_watch_ends_with_the_last_step_and_tells_how_many_there_are(run, record):
    save(run, 10, total=1000)
    scored, told = follow(record, watching=True, waits=[lambda: save(run, 600), lambda: save(run, 1000)])
    assert scored == [10, 600, 1000]
    assert told == ["step 10 of 1,000", "step 600 of 1,000"]


def test_the_watch_ends_when_patience_ended_the_run(run, record):
    save(run, 10, total=1000)

    def end():
        save(run, 20)
        write_finished(run, "eval/val/loss has not improved", 20, 1000)

    scored, told = follow(record, watching=True, waits=[end])
    assert (scored, told) == ([10, 20], ["step 10 of 1,000"])


def test_without_watching_it_does_not_wait(run, record):
    save(run, 10, total=1000)
    assert follow(record) == ([10], [])


def test_the_last_checkpoint_is_not_missed_when_it_comes_just_after_the_look_for_one(run, record, monkeypatch):
    """The state of the run must not be newer than the look for checkpoints."""
    save(run, 10, total=20)
    look = Pins.next

    def look_then_save(self):
        found = look(self)
        if not found and not (run / "checkpoints/step-00000020").exists():
            save(run, 20)
        return found

    monkeypatch.setattr(Pins, "next", look_then_save)
    assert follow(record, watching=True, waits=[lambda: None])[0] == [10, 20]


def test_what_is_pruned_while_another_is_scored_is_scored_from_its_links(run, record, monkeypatch):
    """A run with keep_last: 1 saves three checkpoints while the first is scored."""
    monkeypatch.setattr(watch, "LINK_SECONDS", 0.001)
    fingerprints = {}

    def go_on(step):
        if step != 10:
            return
        for later in (20, 30, 40):
            prune(run / "checkpoints" / checkpoint_name(later - 10))
            fingerprints[later] = fingerprint(save(run, later, seed=later, total=40))
            linked = record.directory / pins.LINKED / checkpoint_name(later)
            wait_until(linked.exists)

    save(run, 10, total=40)
    assert follow(record, watching=True, meanwhile=go_on)[0] == [10, 20, 30, 40]
    assert {step: record.results()[step]["model"] for step in (20, 30, 40)} == fingerprints
    assert not (record.directory / pins.LINKED).exists()


def test_what_a_killed_job_had_linked_is_scored_by_the_next(run, record):
    checkpoint = save(run, 10)
    known = fingerprint(checkpoint)
    Pins(record, print).update()
    prune(checkpoint)
    assert follow(record)[0] == [10]
    assert record.results()[10]["model"] == known
    assert not (record.directory / pins.LINKED).exists()


def test_a_job_that_ends_keeps_only_the_links_to_what_the_run_has_deleted(run, record):
    doomed = save(run, 10)
    save(run, 20)
    told: list[str] = []
    linked = Pins(record, told.append)
    linked.update()
    prune(doomed)
    linked.close()
    home = record.directory / pins.LINKED
    assert [path.name for path in home.iterdir()] == ["step-00000010"]
    assert told == [
        f"{home} still holds 1 checkpoint that the run has deleted; start the command again to score what it "
        "holds, or remove that directory"
    ]


def test_the_links_are_bounded_in_number_and_by_the_free_space(run, record, monkeypatch):
    for step in (10, 20, 30):
        save(run, step)
    told: list[str] = []
    monkeypatch.setattr(pins, "MOST", 2)
    Pins(record, told.append).update()
    home = record.directory / pins.LINKED
    assert sorted(path.name for path in home.iterdir()) == ["step-00000010", "step-00000020"]
    shutil.rmtree(home)
    monkeypatch.setattr(pins, "ROOM", 10**12)
    Pins(record, told.append).update()
    assert not home.exists()
    assert [text.partition(": ")[2] for text in told] == [
        "checkpoints that the run deletes before their turn will be missing"
    ] * 2


def test_where_there_are_no_hard_links_it_is_told_once(run, record, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    save(run, 10), save(run, 20)
    monkeypatch.setattr(os, "link", refuse)
    told: list[str] = []
    for step, model in checkpoints_to_score(record, ALONE, False, print, on_note=told.append):
        record.add(step, model, result_of(model))
    assert list(record.results()) == [10, 20]
    assert told == [
        "hard links are impossible here (Operation not permitted): checkpoints that the run deletes before their "
        "turn will be missing"
    ]


def test_what_was_lost_since_the_watch_began(run, record):
    names = run / "checkpoints/saved"
    assert (pins.saved_count(run), pins.missing(record, 0)) == (0, [])
    names.write_text("step-00000010\nstep-00000020\n")
    since = pins.saved_count(run)
    names.write_text(names.read_text() + "step-00000030\nstep-00000040\nstep-000")
    record.add(40, save(run, 40), result_of(run / "checkpoints/step-00000040"))
    assert pins.missing(record, since) == [30]


@pytest.mark.parametrize("text", ["", '{"total_st', '{"world_size": 1}'])
def test_the_facts_of_a_run_that_is_being_started(run, record, text):
    save(run, 10)
    (run / "environment.json").write_text(text)
    scored, told = follow(record, watching=True, waits=[lambda: save(run, 20, total=20)])
    assert (scored, told) == ([10, 20], ["step 10"])


def test_the_mistake_that_the_main_rank_finds_is_raised_on_all(run, record):
    """Else the others would wait for it in a collective."""
    save(run, 10)
    record.directory.mkdir(parents=True)
    (record.directory / "step-00000003.json").write_text("torn")
    meeting, said, raised = threading.Barrier(2), {}, []

    class Rank(World):
        def gather(self, value):
            said[self.rank] = value
            meeting.wait(60)
            together = [said[rank] for rank in range(self.size)]
            meeting.wait(60)
            return together

        def from_main(self, value):
            return self.gather(value)[0]

    def work(rank):
        try:
            next(checkpoints_to_score(record, Rank(rank, rank, 2, torch.device("cpu")), True, print))
        except UserError as error:
            raised.append(str(error))

    ranks = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(90)
    assert len(raised) == 2 and raised[0] == raised[1] and "not a result of" in raised[0]
