"""Who may import whom. A package stands above all that it imports; nothing but the command line knows commands.

commands            may import everything below
watching            training (failed, lock, stopped), checkpoint, monitoring (metrics), model (locate), submission
submission          config, monitoring (code)
export              config, checkpoint, data, model, preflight (what a disk holds, lengths)
training            config, plan, data, model, checkpoint, evaluation, generation, monitoring, distributed
checkpoint          distributed, errors
preflight           plan, config, data (manifest, mixture, stream, windows), model, monitoring (trackers),
                    training (deepspeed_config)
plan                data (manifest, mixture, windows), model (shape, flops)
evaluation          checkpoint, distributed, data, model
generation          nothing of ours
monitoring          distributed, errors
model               errors
distributed         errors, launched
config              errors
data                errors, and of others what DATA_LIBRARIES names: no torch, no process group
durable             nothing of ours; all may use it
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "gpt2dist"
MODULES = {
    ".".join(("gpt2dist", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
}

MAY_IMPORT = {
    "cli": {"errors", "launched", "monitoring"},  # and commands, by name, when a verb is given
    "commands": {
        *(
            "checkpoint",
            "cli",
            "commands",
            "config",
            "data",
            "distributed",
            "errors",
            "evaluation",
            "export",
            "generation",
            "launched",
            "model",
        ),
        *("monitoring", "plan", "preflight", "submission", "training", "watching"),
    },
    "submission": {"__init__", "config", "errors", "monitoring", "submission"},
    "watching": {"checkpoint", "model", "monitoring", "submission", "training", "watching"},
    "export": {"__init__", "checkpoint", "config", "data", "errors", "export", "model", "preflight"},
    "training": {
        *("checkpoint", "config", "data", "distributed", "errors", "evaluation", "generation", "model"),
        *("deepspeed_start", "monitoring", "plan", "training"),
    },
    "checkpoint": {"checkpoint", "distributed", "errors"},
    "preflight": {"config", "data", "errors", "model", "monitoring", "plan", "preflight", "training"},
    "plan": {"data", "model"},
    "evaluation": {"checkpoint", "data", "deepspeed_start", "distributed", "errors", "evaluation", "model"},
    "generation": set(),
    "monitoring": {"__init__", "distributed", "errors", "monitoring"},
    "model": {"errors", "model"},
    "deepspeed_start": {"distributed"},
    "distributed": {"errors", "launched"},
    "config": {"errors", "strict_yaml"},
    "strict_yaml": {"errors"},
    "data": {"data", "errors"},
    "durable": set(),
    "errors": set(),
    "launched": set(),
    "__main__": {"cli"},
    "__init__": set(),
}

DATA_LIBRARIES = {
    *("numpy", "orjson"),
    *("tokenizers", "gigatoken", "awkward"),
    *("pyarrow", "fsspec", "datasets"),
    *("distributed",),
}
KNOW_DEEPSPEED = {
    "gpt2dist.deepspeed_start",
    "gpt2dist.evaluation.partitioned",
    "gpt2dist.training.engine",
    "gpt2dist.training.zero",
}
LIGHT = (
    *(
        "cli",
        "config",
        "preflight",
        "plan",
        "durable",
        "errors",
        "launched",
        "strict_yaml",
        "data.batch_sizes",
        "data.manifest",
        "data.mixture",
        "data.stream",
        "data.windows",
        "model.shape",
        "model.flops",
    ),
    *("model.locate", "training.schedule", "training.deepspeed_config"),
    *("training.failed", "training.lock", "training.stopped", "monitoring.metrics", "monitoring.trackers"),
    *("watching.evaluations", "watching.files", "watching.status", "watching.table"),
    *("watching.lineage", "watching.report", "watching.svg"),
    *("checkpoint.manifest", "checkpoint.naming", "checkpoint.retention", "checkpoint.state"),
    *(f"submission.{path.stem}" for path in (PACKAGE / "submission").glob("[a-z]*.py")),
    "monitoring.code",
    *("export.origin", "export.publishing"),
    *(f"commands.{path.stem}" for path in (PACKAGE / "commands").glob("[a-z]*.py")),
)
MOST_LINES = 450


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


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_stands_below_it(module):
    ours = {name for name in imports(MODULES[module]) if name.startswith("gpt2dist.")}
    assert {layer(name) for name in ours} - {"durable"} <= MAY_IMPORT[layer(module)]


@pytest.mark.parametrize("module", sorted(name for name in MODULES if layer(name) == "data"))
def test_data_knows_no_torch(module):
    others = {name.split(".")[0] for name in imports(MODULES[module]) if not name.startswith("gpt2dist")}
    assert others - set(sys.stdlib_module_names) <= DATA_LIBRARIES


def test_only_few_know_deepspeed():
    knowing = {
        name
        for name, path in MODULES.items()
        if any(i.split(".")[0] == "deepspeed" or i.startswith("gpt2dist.deepspeed_start") for i in imports(path))
    }
    assert knowing == KNOW_DEEPSPEED


def test_what_answers_at_once_imports_nothing_heavy():
    modules = ", ".join(f"gpt2dist.{name}" for name in LIGHT)
    code = f"import sys, {modules}; print(sorted({{'torch', 'transformers', 'deepspeed'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_there_are_no_cycles():
    graph = {name: imports(path) & set(MODULES) for name, path in MODULES.items()}
    while leaves := {name for name, below in graph.items() if not below - {name}}:
        graph = {name: below - leaves for name, below in graph.items() if name not in leaves}
    assert graph == {}


def test_no_module_is_a_drawer():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
