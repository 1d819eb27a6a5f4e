"""Damage to all kinds of files that gpt2dist reads: each verb refuses it with one message, or gives what it gave.

`GPT2DIST_FUZZ_SEED` and `GPT2DIST_FUZZ_COUNT` choose other mutations. `GPT2DIST_FUZZ_ONLY=17` repeats one of them
with all verbs that read the file.
"""

import os
import random
import shutil
from pathlib import Path
from typing import Any

from tests.support import fuzz
from tests.support.ranks import run_ranks

SEED = os.environ.get("GPT2DIST_FUZZ_SEED", "0")
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
COUNT = int(os.environ.get("GPT2DIST_FUZZ_COUNT", "500" if NIGHTLY else "50"))
ONLY = os.environ.get("GPT2DIST_FUZZ_ONLY")
VERBS = 2
"""Verbs that a mutation is shown to, of those that read the file."""


def find_faults(home: Path, dataset: Path, numbers: list[int], verbs: int) -> list[str]:
    """Make the files in `home`, and return what the verbs do wrong with mutations of them."""
    fuzz.make_home(home, dataset)
    pristine = home.with_name("pristine")
    shutil.copytree(home, pristine)
    results: dict[str, Any] = {}

    def expected(verb: str) -> Any:
        return results[verb]

    for verb, words in fuzz.VERBS.items():
        fuzz.restore(pristine, home)
        code, out, err = fuzz.call(words)
        assert code == 0, f"{words}: {code} {err}"
        results[verb] = fuzz.result_of(verb, home, out)
    faults = []
    for number in numbers:
        case = fuzz.draw_case(random.Random(f"{SEED}/{number}"), pristine, verbs)
        replay = f"GPT2DIST_FUZZ_SEED={SEED} GPT2DIST_FUZZ_ONLY={number}"
        faults += [f"{replay}: {fault}" for fault in fuzz.faults_of(case, pristine, home, expected)]
    return faults


def test_no_damage_is_a_crash_a_hang_or_another_result(tmp_path, tiny_dataset):
    (tmp_path / "home").mkdir()
    numbers = [int(ONLY)] if ONLY else list(range(COUNT))
    verbs = len(fuzz.VERBS) if ONLY else VERBS
    (faults,) = run_ranks(
        find_faults, 1, tmp_path / "home", tiny_dataset, numbers, verbs, timeout=120.0 + 10 * len(numbers)
    )
    assert not faults, f"{len(faults)} faults\n\n" + "\n\n".join(faults[:10])
