"""Every command in the README, the guides, the configurations and --help passes its own checks, for its world."""

import re
import shlex
import shutil
import sys

import pytest
from torch.distributed import run as torchrun

from gpt2dist import cli
from gpt2dist.commands import evaluate, preprocess
from gpt2dist.commands.launch import split, with_defaults
from gpt2dist.preflight import resolve
from gpt2dist.preprocessing import check, tasks
from tests.support import REPOSITORY
from tests.support.markdown import blocks
from tests.support.runs import train, write_run

PAGES = [
    *(REPOSITORY / "README.md", REPOSITORY / "launch/README.md", REPOSITORY / "examples/README.md"),
    REPOSITORY / "docs/start.md",
    *sorted((REPOSITORY / "docs").glob("guides/*.md")),
    *sorted((REPOSITORY / "docs").glob("reference/*.md")),
]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
SHAPES = (1, 2, 4, 8, 16, 32)
"""Ranks for which the pages train GPT-2: a GPU, a part of a node, a node, two and four."""
PLACEHOLDERS = {"CONFIG": "configs/gpt2-124m.yaml", "RUN": "runs/gpt2-124m", "MODEL": "gpt2", "FILE": "run.yaml"}
MODULES = {
    "my_hooks": "hooks",
    "my_trackers": "trackers",
    "my_uploads": "training",
    "lion": "optimizers",
    "my_measures": "evaluation",
}
"""Modules that the commands name → the guide that has their code."""


def commands() -> list[tuple[str, list[str]]]:
    """All our commands and the places that have them, without those that leave something out with "…"."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`(gpt2dist [a-z-]+ [^`\n]+)`", text)
        found += [(str(page.relative_to(REPOSITORY)), line) for line in lines]
    for config in CONFIGS:
        found += [(config.name, line) for line in re.findall(r"^#   (gpt2dist .*)", config.read_text(), re.M)]
    for verb in cli.VERBS:
        (verbs,) = cli.build_parser(verb)._subparsers._group_actions
        epilog = re.sub(r"\\\n\s+", "", verbs.choices[verb].epilog or "")
        found += [(f"{verb} --help", re.split(r"\s{2,}", line.strip())[0]) for line in epilog.splitlines()]
    ours = [(place, re.split(r" [|>] ", line)[0]) for place, line in found if line.startswith("gpt2dist ")]
    return [(place, shlex.split(line, comments=True)) for place, line in ours if "…" not in line]


COMMANDS = commands()


@pytest.fixture(scope="module")
def home(tiny_dataset, tmp_path_factory):
    """A directory with all that the commands name; a tiny run and its tokenizer stand in for all models."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(REPOSITORY / "configs", home / "configs")
    run = train(
        write_run(home, tiny_dataset),
        "schedule.total_steps=2",
        "schedule.warmup_steps=1",
        "model.context_length=1024",
    )
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    shutil.copy(run / "checkpoints/latest", run / "checkpoints/best")
    for name in ("gpt2", "openai-community/gpt2"):
        shutil.copytree(checkpoint, home / name)
    for name in ("gpt2-124m", "finetune-gpt2", "mine", "quickstart"):
        shutil.copytree(run, home / "runs" / name)
    for name in ("openwebtext", "wikitext", "mine", "finetune", "quickstart", "books", "more"):
        shutil.copytree(tiny_dataset, home / "data" / name)
    for name in ("tokenizer", "gpt2-tokenizer"):
        shutil.copytree(tiny_dataset, home / name)
    for folder, suffix in (
        ("corpus", "txt"),
        ("src", "py"),
        ("wiki", "txt"),
        ("notes", "txt"),
        ("dumps", "jsonl.zst"),
    ):
        (home / folder).mkdir()
        for number in range(64):
            (home / folder / f"{number}.{suffix}").write_text("text")
    for name in (
        "book.txt",
        "texts.jsonl",
        "pages.jsonl",
        "lambada_test.jsonl",
        "hellaswag_val.jsonl",
        "shakespeare.txt",
    ):
        (home / name).write_text('{"text": "a b", "page": "a b"}\n')
    run_file = (home / "configs/gpt2-124m.yaml").read_text()
    (home / "gpt2-124m.yaml").write_text(run_file)  # as `gpt2dist init` writes it
    (home / "run.yaml").write_text(run_file.replace("openwebtext", "mine") + "run: {output_dir: runs/new}\n")
    for name, guide in MODULES.items():
        code = blocks((REPOSITORY / f"docs/guides/{guide}.md").read_text(encoding="utf-8"), "python")
        (home / f"{name}.py").write_text("\n".join(each for each in code if "gpt2dist.evaluate(" not in each))
    (home / "mytools.py").write_text("from tests.support.pbs import PBS\n\ndef clean(text):\n    return text\n")
    for name in ("wandb", "mlflow"):  # which need not be installed
        (home / f"{name}.py").touch()
    return home


@pytest.fixture
def there(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr(tasks, "MIN_TASK_BYTES", 1)  # so that small files can be divided among jobs
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**50, 0, 2**50))
    shutil.rmtree(home / "runs/new", ignore_errors=True)
    before = set(sys.modules)
    yield home
    for name in set(sys.modules) - before:
        if (home / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.parametrize(
    ("place", "words"), COMMANDS, ids=[f"{place}: {' '.join(words)}" for place, words in COMMANDS]
)
def test_a_command_passes_its_checks(there, place, words, capsys):
    volume = {"training:/data": f"training:{there}", "CLAIM:PATH": f"training:{there}"}
    verb, *rest = [{**PLACEHOLDERS, **volume}.get(word, word) for word in words[1:]]
    if "--help" in rest:
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, *rest])
        assert ended.value.code == 0
        return
    check_verb(verb, rest)


def check_verb(verb: str, words: list[str], world: int = 1) -> None:
    """Do what the verb does before its work starts."""
    if verb == "launch":
        options, inner = split(words)
        settings = torchrun.parse_args([*with_defaults(options, gpus=8), "-m", "gpt2dist"])
        nodes = int(settings.nnodes.partition(":")[2] or settings.nnodes)
        check_verb(inner[0], inner[1:], nodes * int(settings.nproc_per_node))
        return
    if verb == "submit":
        where = words.index("--") if "--" in words else len(words)
        dry = [*words[:where], "--dry-run", *words[where:]]
        if "evaluate" in words and "slurm" in words:
            assert "--cpus-per-node" in words, "a whole node for one evaluation"
        assert cli.main(["submit", *output_elsewhere(dry)]) == 0
    elif verb == "validate":
        assert cli.main(["validate", *words]) == 0
    else:
        args, rest = cli.build_parser(verb).parse_known_args([verb, *output_elsewhere(words)])
        if rest:  # overrides after an option
            args.overrides += rest
        if verb in ("train", "verify-resume"):
            resolve(args.config, args.overrides, world)
        elif verb == "evaluate":
            evaluate.check(args)
        elif verb == "preprocess" and not any("://" in each for each in args.inputs):
            check(preprocess.job_of(args))


def output_elsewhere(words: list[str]) -> list[str]:
    """The words with an --output of preprocessing that does not exist yet."""
    return [
        f"new/{word}" if before == "--output" else word for before, word in zip(["", *words], words, strict=False)
    ]


@pytest.mark.parametrize(
    "config", [each for each in CONFIGS if each.name.startswith("gpt2-")], ids=lambda path: path.stem
)
@pytest.mark.parametrize("world", SHAPES)
def test_a_configuration_fits_every_shape(there, config, world):
    resolve(config, [], world)


def test_there_are_commands_of_every_verb_and_place():
    assert {words[1] for _, words in COMMANDS} == set(cli.VERBS)
    assert len(COMMANDS) > 100 and len({place for place, _ in COMMANDS}) > 25
