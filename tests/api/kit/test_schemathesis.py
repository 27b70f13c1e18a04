"""Requests made up from the OpenAPI document, against a real server: none fails it, and every answer is a documented one."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from tests.api.conftest import Rows
from tests.api.jobs.test_streams import server_in_this_process
from tests.api.kit.test_isolation import make_rows

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 12  # of each operation


@schemathesis.serializer("application/offset+octet-stream")
def as_it_is(_context: object, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture
def server_url(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """No worker runs, so nobody waits for an image."""
    monkeypatch.setattr("api.kit.prefer.LONGEST", 0)
    with server_in_this_process(settings) as url:
        yield url


def test_no_request_is_answered_in_an_undocumented_way(
    client: TestClient,
    rows: Rows,
    sessions: sessionmaker[Session],
    store: ObjectStore,
    server_url: str,
    api_key: str,
) -> None:
    document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) == sum(len(methods) for methods in document["paths"].values())
    ids = make_rows(rows, client, sessions, store)
    answered: dict[str, set[int]] = {}
    failures = []
    # Rows are looked at before they are deleted.
    for operation in sorted(operations, key=lambda op: op.method.upper() == "DELETE"):
        try:
            answered[operation.label] = ask(operation, server_url, api_key, ids)
        except (FailureGroup, Failure) as failure:
            failures.append(f"{operation.label}: {failure}")
    assert failures == []
    # The made-up requests reach more than refusals.
    succeeded = [label for label, statuses in answered.items() if any(200 <= status < 300 for status in statuses)]
    assert len(succeeded) > len(operations) / 2, answered


def ask(operation: APIOperation[Any, Any, Any, Any], url: str, key: str, ids: dict[str, str]) -> set[int]:
    """The statuses of the answers to some made-up requests, half of them with ids of rows that are there."""
    statuses = set()

    @seed(4)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), known=st.booleans())
    def run(case: Case[Any], known: bool) -> None:
        if known:
            case.path_parameters = {name: ids.get(name, value) for name, value in (case.path_parameters or {}).items()}
        headers = {"authorization": f"Bearer {key}", "tus-resumable": "1.0.0"}
        answer = case.call(base_url=url, headers=headers, timeout=30)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    run()
    return statuses
