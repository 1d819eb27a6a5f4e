import logging
import warnings

import pytest

from gpt2dist.monitoring.logs import logger, open_rank_log, quiet_libraries


@pytest.fixture(autouse=True)
def loggers_as_before():
    root = logging.getLogger()
    state = [(known, known.handlers[:], known.level) for known in (root, logger)]
    yield
    logging.captureWarnings(False)
    for known, handlers, level in state:
        for handler in set(known.handlers) - set(handlers):
            handler.close()
        known.handlers[:] = handlers
        known.setLevel(level)


def test_the_file_of_a_rank_holds_everything_the_terminal_only_what_is_ours(tmp_path, capsys):
    open_rank_log(tmp_path, 0)
    logger.info("resumed")
    logging.getLogger("somelibrary").info("chatter")
    text = (tmp_path / "logs/rank-00000.log").read_text()
    assert "INFO gpt2dist: resumed" in text and "INFO somelibrary: chatter" in text
    assert capsys.readouterr() == ("", "resumed\n")


def test_other_ranks_are_silent_and_have_files_of_their_own(tmp_path, capsys):
    open_rank_log(tmp_path, 3)
    logger.warning("slow")
    assert "WARNING gpt2dist: slow" in (tmp_path / "logs/rank-00003.log").read_text()
    assert capsys.readouterr() == ("", "")


def test_libraries_are_kept_off_the_terminal(capsys):
    quiet_libraries()
    logging.getLogger("somebody").warning("look at me")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", FutureWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "")
