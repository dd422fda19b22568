"""Fixtures for all tests."""

import signal

import pytest
from hypothesis import settings

# A loaded machine is no failure of what is tested.
settings.register_profile("without-deadline", deadline=None)
settings.load_profile("without-deadline")


def pytest_configure(config: pytest.Config) -> None:
    """Heed SIGINT. A run that a script has put in the background was told to ignore it, and so would every program that
    it starts, those among them that tests send it to.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
