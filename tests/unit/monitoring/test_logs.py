import logging
import warnings

from gpt2dist.monitoring.logs import logger, quiet_libraries, rank_logging


def test_the_file_of_a_rank_holds_everything_the_terminal_only_what_is_ours(tmp_path, capsys):
    with rank_logging(tmp_path, 0):
        logger.info("resumed")
        logging.getLogger("somelibrary").info("chatter")
    logger.warning("too late")
    text = (tmp_path / "logs/rank-00000.log").read_text()
    assert "INFO gpt2dist: resumed" in text and "INFO somelibrary: chatter" in text and "too late" not in text
    assert capsys.readouterr() == ("", "resumed\n")


def test_other_ranks_are_silent_and_have_files_of_their_own(tmp_path, capsys):
    with rank_logging(tmp_path, 3):
        logger.warning("slow")
    assert "WARNING gpt2dist: slow" in (tmp_path / "logs/rank-00003.log").read_text()
    assert capsys.readouterr() == ("", "")


def test_libraries_are_kept_off_the_terminal(capsys, caplog, request):
    logging.captureWarnings(False)  # as an earlier test may have left it
    request.addfinalizer(lambda: logging.captureWarnings(False))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        quiet_libraries()
        logging.getLogger("somebody").warning("look at me")
        warnings.warn("old", FutureWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert capsys.readouterr() == ("", "")
    assert "look at me" in caplog.text and "FutureWarning: old" in caplog.text
