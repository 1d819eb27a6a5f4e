"""A package with a reader and filters of its own, as a stranger would write it, installed into a directory."""

from tests.support.packages import write_metadata

MODULE = '''
from gpt2dist.corpus import Document, Reader, Rejected, Skipped
from gpt2dist.corpus.files import Stream
from gpt2dist.corpus.readers.cells import document
from gpt2dist.preprocessing import Skip


class Poems(Reader):
    """Poems, each after a line with a percent sign; those after %% are comments, and those after %! are lost."""

    suffixes = (".poem", ".poem.packed")
    compressible = True

    def read(self, piece, reading):
        with Stream(piece.path, piece.compression) as stream:
            poems = b"".join(iter(stream.read, b"")).split(b"\\n%")[1:]
        for number, poem in enumerate(poems, 1):
            size = piece.size // len(poems)
            if poem.startswith(b"%"):
                yield Skipped(number, -1, size, "comment")
            elif poem.startswith(b"!"):
                yield Rejected(number, -1, size, "this poem is lost")
            else:
                yield document(poem.removeprefix(b"\\n"), number, size)
        return len(poems)


class NoNumber(Poems):
    def read(self, piece, reading):
        yield from super().read(piece, reading)


def not_sad(text):
    return Skip("too sad") if "tears" in text else text


def shouted(text):
    return text.upper()


def forgets(text):
    pass


def wordy(text):
    return Skip("word " * 30)


def short(text):
    assert text
    return Skip(f"short: {text}") if len(text) < 2 else text


def numbered(text, numbers=iter(range(10**6))):
    return Skip(f"number {next(numbers)}")


NUMBER = 7
'''


def install(directory):
    """Write the package into a directory, with the metadata of an installed one."""
    write_metadata(directory, "poems", "gpt2dist.readers", poems="poems_of_tests:Poems")
    (directory / "poems_of_tests.py").write_text(MODULE)
