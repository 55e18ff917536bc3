"""Addresses in object storage: what is taken, what is refused, and what an error says."""

import pickle
import time

import obstore
import pytest

from beph_store.errors import ObjectStorageError, UsageError
from beph_store.objects import is_url, name_of, open_bucket, parse, redacted, storage_options, translated
from tests.objects.proxy import faulty
from tests.objects.server import ACCESS_KEY, SECRET_KEY, environment, free_port, rclone_server


def test_what_is_an_address():
    assert is_url("s3://b/k")
    assert is_url("gs://b")
    assert is_url("az://c/k")
    assert not any(
        map(is_url, ["/data/s3", "s3", "C:\\slides", "http://b/k", "memory://b", "s3:/b", 3, None])
    )


def test_an_address_has_three_parts():
    address = parse("s3://bucket//a b/ü.svs/")
    assert (address.scheme, address.bucket, address.key) == ("s3", "bucket", "a b/ü.svs")
    assert str(address) == "s3://bucket/a b/ü.svs"
    assert str(parse("gs://b/")) == "gs://b"
    assert name_of("s3://bucket/x/y.svs") == "y.svs"


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:SECRET@bucket/k",
        "s3://KEY@bucket/k",
        "s3://bucket/k?X-Amz-Signature=abc",
        "az://c/k?sv=1&sig=abc",
        "s3:///k",
        "s3://b/../k",
        "http://b/k",
        "/a/path",
    ],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(UsageError) as refused:
        parse(url)
    assert "SECRET" not in str(refused.value).replace("AWS_SECRET_ACCESS_KEY", "")
    assert "abc" not in str(refused.value)


@pytest.fixture
def bare(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    return monkeypatch


def test_an_environment_that_cannot_be_enough_is_an_error_at_once(bare):
    with pytest.raises(UsageError, match="AWS_REGION"):
        open_bucket("s3://b/k")
    bare.setenv("AWS_REGION", "eu-central-1")
    with pytest.raises(UsageError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        storage_options("s3://b/k")
    bare.setenv("AWS_SKIP_SIGNATURE", "true")
    assert storage_options("s3://b/k")["aws_skip_signature"] == "true"
    bare.setenv("AWS_ENDPOINT_URL", "http://me:pass@host")
    with pytest.raises(UsageError, match="endpoint") as refused:
        open_bucket("s3://b/k")
    assert "pass@" not in str(refused.value)


def test_http_is_talked_only_where_the_endpoint_says_so(s3, monkeypatch):
    assert storage_options(s3)["allow_http"] == "true"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
    assert "allow_http" not in storage_options(s3)
    assert storage_options("/a/path") is None


def test_no_secret_is_in_what_lance_is_told(s3):
    store, _ = open_bucket(s3)
    seen = repr(storage_options(s3)) + repr(store) + str(pickle.dumps(parse(s3)))
    assert SECRET_KEY not in seen
    assert ACCESS_KEY not in seen


def test_an_object_goes_there_and_back(s3):
    store, key = open_bucket(f"{s3}/a b/ü#?.bin")
    with translated(s3):
        obstore.put(store, key, b"12345")
        assert bytes(obstore.get_range(store, key, start=1, end=3)) == b"23"
        assert obstore.head(store, key)["size"] == 5
    with pytest.raises(FileNotFoundError), translated(s3):
        obstore.get(store, "nothing")


def failing(url):
    store, key = open_bucket(f"{url}/k")
    with pytest.raises(ObjectStorageError) as failed, translated(url):
        obstore.put(store, key, b"1")
    text = str(failed.value)
    assert "\n" not in text
    assert SECRET_KEY not in text
    assert ACCESS_KEY not in text
    assert failed.value.__cause__ is None
    assert isinstance(failed.value, OSError)
    return text


def test_no_such_bucket(s3):
    assert "has no bucket absent: make it first" in failing("s3://absent")


def test_wrong_credentials(seaweed, monkeypatch):
    with environment(seaweed):
        bucket = seaweed.bucket()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-" + SECRET_KEY)
        assert "refuses these credentials: check AWS_ACCESS_KEY_ID" in failing(bucket)


def test_nobody_there(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("beph_store.objects.RETRIES", 2)
    begun = time.monotonic()
    assert "cannot be reached: check AWS_ENDPOINT_URL" in failing(s3)
    assert time.monotonic() - begun < 10


def test_a_server_that_only_fails(moto, monkeypatch):
    monkeypatch.setattr("beph_store.objects.RETRIES", 2)
    with faulty(moto, busy=1.0) as proxy, environment(proxy.server):
        assert "keeps answering 503" in failing("s3://any")
    assert proxy.faults["busy"] == 3


def test_a_server_that_fails_now_and_then_is_asked_again(moto):
    with faulty(moto, seed=3, before=0.2, busy=0.2) as proxy, environment(proxy.server):
        url = proxy.server.bucket()
        store, _ = open_bucket(url)
        for number in range(20):
            obstore.put(store, f"k{number}", b"x")
        assert len([o for part in obstore.list(store) for o in part]) == 20
    assert proxy.faults["before"]
    assert proxy.faults["busy"]


def test_secrets_are_taken_out_of_a_text(s3):
    text = f"key {SECRET_KEY} of http://u:p@host/?X-Amz-Signature=00ff&a=1 and sig=aa"
    shown = redacted(text)
    assert SECRET_KEY not in shown
    assert "00ff" not in shown
    assert "u:p" not in shown
    assert "sig=aa" not in shown
    assert "a=1" in shown


def test_a_server_without_conditional_puts_says_yes_to_everybody():
    """What the store must find out before it writes: see ``store.place``."""
    with rclone_server() as server, environment(server):
        store, _ = open_bucket(server.bucket())
        for _ in range(2):
            obstore.put(store, "k", b"x", mode="create")
