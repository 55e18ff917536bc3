"""Requests that nobody thought of, drawn from the server's own OpenAPI document, against the real server."""

import json
import os
import subprocess
import sys

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.serve.conftest import ingested  # noqa: F401 - a fixture

#: Never ends: its stream is tested where it is read.
ENDLESS = "/api/events"
#: 20 examples an operation find a handler that does not look at what it is given; a soak run tries more.
EXAMPLES = int(os.environ.get("BEPH_STORE_SCHEMA_EXAMPLES", "6"))


@pytest.fixture(scope="module")
def address(ingested):  # noqa: F811 - the fixture
    store, _, labels = ingested
    command = [sys.executable, "-m", "beph_store_cli", "serve", str(store), "--port", "0", "--json"]
    process = subprocess.Popen([*command, "--labels", str(labels)], stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(process.stdout.readline())
        assert process.poll() is None, "the server did not survive"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def headers(address):
    return {"authorization": f"Bearer {address['token']}"}


@pytest.fixture(scope="module")
def document(address, headers):
    return requests.get(f"{address['base']}/api/openapi.json", headers=headers, timeout=20).json()


@pytest.fixture(scope="module")
def operations(document):
    found = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    return [operation for operation in found if operation.path != ENDLESS]


def test_every_answer_is_one_that_the_document_names(operations, address, headers):
    assert len(operations) > 40
    for operation in operations:
        try:
            _try(operation, address["base"], headers)
        except Exception as error:
            raise AssertionError(f"{operation.label}: {error}") from error


def _try(operation, base, headers):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(case=operation.as_strategy())
    def one(case):
        answer = case.call(base_url=base, headers=headers, timeout=30)
        assert answer.status_code < 500, answer.text
        assert "Traceback" not in answer.text
        case.validate_response(answer, checks=[status_code_conformance, content_type_conformance])

    one()
