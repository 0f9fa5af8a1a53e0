"""Each contract, with each thing that is held to it."""

import pytest

from tests.contract.harness import HARNESSES


@pytest.fixture(params=HARNESSES)
def harness(request):
    with request.param(request) as made:
        yield made
