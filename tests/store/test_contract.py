"""Every place for a store runs the contract."""

import pytest

from beph_store.testing.store_suite import StoreContract
from tests.objects.proxy import faulty
from tests.objects.server import environment


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """What is of this machine only is this test's only."""
    monkeypatch.setenv("BEPH_STORE_WORK", str(tmp_path / "work"))


@pytest.fixture(scope="module")
def weed_bucket(seaweed):
    """One bucket for all: each takes SeaweedFS some volumes."""
    return seaweed.bucket()


class TestDisk(StoreContract):
    @pytest.fixture
    def root(self, tmp_path):
        return str(tmp_path / "S")


class TestMoto(StoreContract):
    @pytest.fixture
    def root(self, s3):
        return f"{s3}/a prefix/S"


class TestSeaweed(StoreContract):
    @pytest.fixture
    def root(self, seaweed, weed_bucket, request):
        with environment(seaweed):
            yield f"{weed_bucket}/{request.node.name}"


@pytest.mark.soak
class TestMotoThatFails(StoreContract):
    """Every tenth answer is an error; of every other one of those the effect was there all the same."""

    @pytest.fixture
    def root(self, moto, request):
        seed = sum(request.node.name.encode())
        with (
            faulty(moto, seed, before=0.03, after=0.05, busy=0.02) as proxy,
            environment(proxy.server),
        ):
            yield f"{proxy.server.bucket()}/S"
        assert proxy.faults
