import pytest

from tests.support.fake_cuda import fake_cuda


@pytest.fixture
def device():
    """A fake GPU, which records what is asked of it."""
    with fake_cuda() as device:
        yield device
