"""What the scenarios on a scripted API server share."""

import pytest

from tests.fakes.server import ApiServer
from tests.fakes.time import FakeClock


@pytest.fixture
def server():
    with ApiServer() as running:
        yield running


@pytest.fixture
def clock():
    return FakeClock()
