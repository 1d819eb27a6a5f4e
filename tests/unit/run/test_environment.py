import json
import shutil
import subprocess
from pathlib import Path

import torch

from gpt2dist.run import environment


def test_it_names_what_a_run_depends_on_and_fits_into_json():
    facts = json.loads(json.dumps(environment.describe()))
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(facts["packages"]) == {"torch", "deepspeed", "transformers", "tokenizers", "numpy", "safetensors"}
    assert facts["host"] and facts["python"] and facts["cpus"] >= 1


def git(directory, *words):
    identity = ("-c", "user.name=x", "-c", "user.email=x@x")
    command = ["git", "-C", str(directory), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_code_and_not_of_a_repository_around_it(tmp_path, monkeypatch):
    installed = shutil.copy(environment.__file__, tmp_path / "code.py")
    monkeypatch.setattr(environment, "HERE", Path(installed))
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "somebody else's")
    assert environment.commit() is None
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "ours")
    assert environment.commit() == git(tmp_path, "rev-parse", "HEAD")
    assert environment.uncommitted() == ""
    installed.write_text("changed\n")
    assert "+changed" in environment.uncommitted().splitlines()
    diff = environment.uncommitted()
    git(tmp_path, "checkout", "-q", "code.py")
    subprocess.run(["git", "-C", str(tmp_path), "apply", "-"], input=diff, text=True, check=True, timeout=60)
    assert installed.read_text() == "changed\n", "the recorded diff can be applied"
