"""A checkpoint that cannot be read while it is restored; test_store.py has the rest."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError
from tests.support.stores import CPU, ModelState, ThreadWorld, store_of, trainer_state


def test_a_disk_that_fails_on_one_rank_ends_all_with_the_same_message(tmp_path, monkeypatch):
    path = store_of(tmp_path, World(0, 0, 1, CPU)).save(ModelState(), trainer_state(7))
    read, failing = os.preadv, threading.local()

    def preadv(*args):
        if getattr(failing, "now", False):
            raise OSError(errno.EIO, "Input/output error")
        return read(*args)

    monkeypatch.setattr(os, "preadv", preadv)
    board, meet = {}, threading.Barrier(3)

    def load(rank):
        failing.now = rank == 1
        try:
            return store_of(tmp_path, ThreadWorld(rank, rank, 3, CPU, board, meet)).load(path, ModelState())
        except RunError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(load, range(3)))
    (file,) = path.glob("optimizer-*.safetensors")
    assert outcomes == [f"{path} cannot be read: [Errno 5] Input/output error: '{file}'; start the run again"] * 3
