"""Who may import whom: MAY_IMPORT, which CONTRIBUTING.md shows as a table."""

import ast
import os
import re
import subprocess
import sys

import pytest

from tests.support import REPOSITORY

PACKAGE = REPOSITORY / "gpt2dist"
MODULES = {
    ".".join(("gpt2dist", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
}

MAY_IMPORT = {
    "__main__": "cli",
    "commands": (
        "api checkpoint cli config corpus dataset distributed evaluation generation loading model monitoring "
        "plan preflight preprocessing publishing quickstart report run status submission tokenizer training"
    ),
    "cli": "__init__ distributed monitoring",
    "api": (
        "checkpoint config corpus dataset distributed evaluation generation loading model monitoring plan "
        "preflight preprocessing publishing report run status tokenizer training"
    ),
    "quickstart": "config corpus dataset distributed run tokenizer",
    "report": "evaluation run status",
    "status": "checkpoint evaluation model run",
    "submission": "config run",
    "publishing": "__init__ checkpoint config evaluation model preflight run tokenizer training",
    "preflight": "config dataset evaluation loading model monitoring plan run tokenizer training",
    "training": (
        "checkpoint config distributed evaluation generation loading model monitoring plan run tokenizer"
    ),
    "evaluation": "checkpoint corpus dataset distributed generation loading model run tokenizer",
    "generation": "model tokenizer",
    "plan": "dataset loading model",
    "preprocessing": "corpus dataset tokenizer",
    "loading": "dataset",
    "dataset": "corpus tokenizer",
    "tokenizer": "",
    "corpus": "",
    "checkpoint": "distributed model run",
    "monitoring": "distributed run",
    "model": "run",
    "run": "__init__ config distributed",
    "config": "",
    "distributed": "",
    "__init__": "",
    "atomic_io": "",
    "errors": "",
    "hub": "",
    "importing": "",
    "json_files": "",
    "memory": "",
    "output_paths": "",
    "registry": "",
    "terminal": "",
}
"""Each package or module, top first, and those below that it may import beside itself and EVERYWHERE."""

PUBLIC = "gpt2dist.__init__"
"""It names the public API for type checkers, and imports a part of it when a user asks for that part."""

EVERYWHERE = {
    *("atomic_io", "errors", "hub", "importing", "json_files", "memory", "output_paths", "registry", "terminal")
}

DATA = {"corpus", "tokenizer", "preprocessing", "dataset", "loading"}
DATA_LIBRARIES = {
    *("numpy", "orjson"),
    *("tokenizers", "gigatoken", "awkward"),
    *("pyarrow", "fsspec", "datasets", "charset_normalizer"),
    *("distributed", "warcio"),
}
KNOW_DEEPSPEED = {
    "gpt2dist.distributed.deepspeed_import",
    "gpt2dist.evaluation.zero3_forward",
    "gpt2dist.training.engine",
    "gpt2dist.training.zero_state",
}
LIGHT = (
    *(
        "cli",
        "config",
        "preflight",
        "plan",
        "atomic_io",
        "errors",
        "hub",
        "importing",
        "json_files",
        "memory",
        "output_paths",
        "registry",
        "terminal",
        "distributed.launch_environment",
        "config.yaml",
        "loading.batch_ramp",
        "dataset.manifest",
        "loading.mixture",
        "loading.token_stream",
        "loading.windows",
        "model.shape",
        "model.flops",
    ),
    *("model.find_model", "training.lr_schedule", "training.deepspeed_config"),
    *("training.optimizers", "training.optimizers.base", "training.optimizers.adamw"),
    *("monitoring.trackers", "monitoring.trackers.server_run"),
    *("monitoring.trackers.mlflow", "monitoring.trackers.wandb"),
    *(
        f"{room}.{path.stem}"
        for room in ("run", "status", "report")
        for path in (PACKAGE / room).glob("[a-z]*.py")
    ),
    *("evaluation.measure", "evaluation.measures"),
    *("checkpoint.manifest", "checkpoint.naming", "checkpoint.retention", "checkpoint.state"),
    *(f"submission.{path.stem}" for path in (PACKAGE / "submission").glob("[a-z]*.py")),
    *(f"submission.schedulers.{path.stem}" for path in (PACKAGE / "submission/schedulers").glob("[a-z]*.py")),
    *("publishing.origin", "publishing.output_directory", "publishing.publish", "generation.continuations"),
    *(f"api.{path.stem}" for path in (PACKAGE / "api").glob("[a-z]*.py")),
    *(f"commands.{path.stem}" for path in (PACKAGE / "commands").glob("[a-z]*.py")),
)
MOST_LINES = 450
ENTRY_POINT_GROUPS = {
    *("gpt2dist.hooks", "gpt2dist.measures", "gpt2dist.on_commit", "gpt2dist.optimizers", "gpt2dist.readers"),
    *("gpt2dist.question_formats", "gpt2dist.schedulers", "gpt2dist.trackers", "gpt2dist.tests_animals"),
}


def table():
    """MAY_IMPORT for people."""
    rows = [f"| {name} | {', '.join(below.split()) or '–'} |" for name, below in MAY_IMPORT.items()]
    return "\n".join(["| module or package | may import |", "|---|---|", *rows])


def tree():
    """Each package and module with the first line of its docstring, in the order of MAY_IMPORT."""
    lines = ["```text"]
    for name in MAY_IMPORT:
        path = MODULES.get(f"gpt2dist.{name}.__init__") or MODULES[f"gpt2dist.{name}"]
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        is_package = path.parent != PACKAGE
        lines.append(f"{name + '/' if is_package else name + '.py':16}{docstring.splitlines()[0]}")
    return "\n".join([*lines, "```"])


@pytest.mark.parametrize(("name", "made"), [("may import", table), ("tree", tree)])
def test_contributing_shows_the_tree_and_the_table(name, made):
    """GPT2DIST_UPDATE_DOCS=1 writes them."""
    page = REPOSITORY / "CONTRIBUTING.md"
    pattern = rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- end -->)"
    if os.environ.get("GPT2DIST_UPDATE_DOCS"):
        text = re.sub(pattern, lambda _: made(), page.read_text(encoding="utf-8"), flags=re.S)
        page.write_text(text, encoding="utf-8")
    found = re.search(pattern, page.read_text(encoding="utf-8"), flags=re.S)
    assert found and found[0] == made()


def test_the_table_is_complete_and_leads_downwards():
    layers = {layer(module) for module in MODULES}
    assert set(MAY_IMPORT) == layers
    order = list(MAY_IMPORT)
    upwards = [
        (above, below)
        for above, names in MAY_IMPORT.items()
        for below in names.split()
        if order.index(below) < order.index(above)
    ]
    assert upwards == []


def imports(path):
    """All modules that a file imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            # `from gpt2dist import distributed` names a module too
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
    return found


def layer(module):
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {PUBLIC}))
def test_a_module_imports_only_what_stands_below_it(module):
    ours = {name for name in imports(MODULES[module]) if name.startswith("gpt2dist.")}
    allowed = {layer(module), *EVERYWHERE, *MAY_IMPORT[layer(module)].split()}
    assert {layer(name) for name in ours} <= allowed


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"gpt2dist.terminal"}))
def test_everything_is_printed_by_terminal_say(module):
    """It escapes what comes from files. Own control sequences may be written by `sys.stderr.write`."""
    calls = [
        node for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))) if isinstance(node, ast.Call)
    ]
    assert [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"] == []
    writes = [call.lineno for call in calls if ast.unparse(call.func) in ("sys.stderr.write", "sys.stdout.write")]
    assert writes == [] or module in ("gpt2dist.commands.status", "gpt2dist.commands.quickstart")


@pytest.mark.parametrize("module", sorted(name for name in MODULES if layer(name) in DATA))
def test_data_knows_no_torch(module):
    others = {name.split(".")[0] for name in imports(MODULES[module]) if not name.startswith("gpt2dist")}
    assert others - set(sys.stdlib_module_names) <= DATA_LIBRARIES


def test_only_few_know_deepspeed():
    knowing = {
        name
        for name, path in MODULES.items()
        if any(
            i.split(".")[0] == "deepspeed" or i.startswith("gpt2dist.distributed.deepspeed_import")
            for i in imports(path)
        )
    }
    assert knowing == KNOW_DEEPSPEED


def test_what_answers_at_once_imports_nothing_heavy():
    modules = ", ".join(f"gpt2dist.{name}" for name in LIGHT)
    code = f"import sys, {modules}; print(sorted({{'torch', 'transformers', 'deepspeed'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


RUN_FILES = {"config.yaml", "deepspeed.json", "environment.json", "metrics.jsonl", "stopped.json", "failed.json"}
RUN_DIRECTORIES = {
    "checkpoints",
    "eval",
    "latest",
    "logs",
    "profile",
    "saved",
    "starts",
    "submission",
    "tensorboard",
    "trackers",
    "verify-resume",
}
"""What lies in a run directory. A record of a submission has a config.yaml, too."""


def spelled(path):
    """The names of a run's files and directories that a module spells, outside of prose."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and node.value in RUN_FILES:
            found.add(node.value)
        parts = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.right]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
            "glob",
            "rglob",
            "joinpath",
            "Path",
        ):
            parts = node.args
        for part in parts:
            first = part.values[0] if isinstance(part, ast.JoinedStr) else part
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found |= set(first.value.split("/")) & RUN_DIRECTORIES
    return found


def test_only_the_run_directory_spells_the_names_of_its_files():
    owner = "gpt2dist.run.directory"
    assert spelled(MODULES[owner]) == RUN_FILES | RUN_DIRECTORIES - {"latest", "saved"}
    elsewhere = {name: spelled(path) for name, path in MODULES.items() if name != owner and spelled(path)}
    assert elsewhere == {"gpt2dist.run.submissions": {"config.yaml"}}


def names_in(module):
    """The names at the top of a module, and the modules and packages in it where it is a package."""
    path = MODULES.get(f"{module}.__init__") or MODULES.get(module)
    found = {name.removeprefix(f"{module}.").split(".")[0] for name in MODULES if name.startswith(f"{module}.")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def texts_of_the_repository():
    command = ["git", "ls-files", "*.py", "*.md", "*.sh", "*.yaml", "*.toml", "*.j2", "*.sbatch", "Makefile"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    for name in listed.stdout.split():
        if name not in ("docs/log.md", "CHANGELOG.md") and (REPOSITORY / name).is_file():
            yield name, (REPOSITORY / name).read_text(encoding="utf-8")


def test_every_reference_to_a_module_leads_somewhere():
    """Imports in strings, in documentation and in scripts, too."""
    dead = []
    for name, text in texts_of_the_repository():
        for module, imported in re.findall(r"from (gpt2dist[\w.]*) import \(?([\w, ]+)", text):
            names = {part.split(" as ")[0].strip() for part in imported.split(",")} - {""}
            dead += [(name, module, missing) for missing in names - names_in(module)]
        for dotted in re.findall(r"\bgpt2dist(?:\.[a-z_]\w*)+(?!\w*\()", text):
            parts = dotted.split(".")
            if parts[-1] in ("egg", "yaml", "py", "fish") or dotted in ENTRY_POINT_GROUPS:
                continue
            parent = max((p for p in range(1, len(parts)) if known(".".join(parts[:p]))), default=1)
            if parts[parent] not in names_in(".".join(parts[:parent])):
                dead.append((name, dotted, parts[parent]))
    assert dead == []


def known(module):
    return module in MODULES or any(name.startswith(f"{module}.") for name in MODULES)


def test_the_unit_tests_mirror_the_package():
    """tests/unit has folders of the package's names, and of the other top folders whose files it tests."""
    unit = REPOSITORY / "tests/unit"
    folders = {path.relative_to(unit) for path in unit.rglob("*") if path.is_dir() and path.name[0] not in "._"}
    strange = {folder for folder in folders if not (PACKAGE / folder).is_dir()}
    assert {str(folder) for folder in strange} == {"launch", "tools"}


def test_there_are_no_cycles():
    graph = {name: imports(path) & set(MODULES) for name, path in MODULES.items()}
    while leaves := {name for name, below in graph.items() if not below - {name}}:
        graph = {name: below - leaves for name, below in graph.items() if name not in leaves}
    assert graph == {}


def test_no_module_is_a_drawer():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_two_classes_have_one_name():
    found: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}
