"""Fixtures of object storage; ``tests/conftest.py`` makes them known everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.objects.server import Server, environment, moto_server, seaweed_server


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    """One moto server for the session; its variables are not set."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Server]:
    """One SeaweedFS for the session; its variables are not set."""
    with seaweed_server() as server:
        yield server


@pytest.fixture
def s3(moto: Server) -> Iterator[str]:
    """The address of a new bucket on moto, with the variables set: ``s3://b0123``."""
    with environment(moto):
        yield moto.bucket()
