"""Every error of every route has the one shape; bodies that cannot be read are refused before they are parsed."""

import json
from collections import defaultdict
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from sqlalchemy import make_url, text

from api.app import create_app
from api.kit.limits import MAX_NESTING
from difffit_core.errors import DiffFitError
from jobstore.kit.settings import Settings
from tests.services import Servers

JSON = {"content-type": "application/json"}
TUS = {"upload-offset": "0", "content-type": "application/offset+octet-stream"}  # without them it is asked for nothing
OPEN = {"/healthz", "/readyz", "/docs", "/docs/start.js", "/docs/{name}", "/openapi.json"}
TYPES = {
    "invalid_request",
    "authentication",
    "permission",
    "not_found",
    "conflict",
    "too_large",
    "rate_limited",
    "unavailable",
    "internal",
}


def assert_error(response: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """The response is an error of the one shape."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    assert list(response.json()) == ["error"]
    error: dict[str, Any] = response.json()["error"]
    assert list(error) == ["type", "code", "message", "param"]
    assert error["type"] in TYPES
    assert error["message"].endswith((".", "?", "`"))
    assert code in (None, error["code"])
    return error


def all_routes(app: Any) -> list[tuple[str, str]]:
    return sorted(
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
        if context.path
    )


def test_every_route_answers_wrong_requests_in_the_one_shape(client: TestClient) -> None:
    routes = all_routes(client.app)
    assert len(routes) > 20
    methods: dict[str, set[str]] = defaultdict(set)
    for method, template in routes:
        methods[template].add(method)
    for method, template in routes:
        if template in OPEN or method == "HEAD":
            continue
        path = template.replace("{", "no-such-").replace("}", "")
        client.headers["tus-resumable"] = "1.0.0"
        no_key = client.request(method, path, headers={"authorization": ""})
        assert_error(no_key, 401, "missing_key")
        assert no_key.headers["www-authenticate"] == "Bearer"
        assert_error(client.request(method, path, headers={"authorization": "Bearer wrong"}), 401, "invalid_key")
        refused = client.request("PROPFIND", path)
        assert_error(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == ", ".join(sorted(methods[template])), path
        if "{" in template:
            assert_error(client.request(method, path, headers=TUS if template.startswith("/uploads") else {}), 404)
        if method == "POST" and "{" not in template and template not in {"/datasets", "/uploads"}:
            assert_error(client.post(path), 422, "missing_body")
            assert_error(client.post(path, content=b"{", headers=JSON), 400, "invalid_json")
            assert_error(client.post(path, content=b"\xff\xfe", headers=JSON), 400, "invalid_json")
            assert_error(client.post(path, content=b"a=b"), 415, "unsupported_media_type")
            assert_error(client.post(path, json=[]), 422, "invalid_value")
            assert_error(client.post(path, json={"no such": 1}), 422)


def test_every_route_but_a_few_wants_a_key_and_documents_its_errors(settings: Settings) -> None:
    document = create_app(settings).openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["tags"]
            assert operation["description"]
            if path not in OPEN:
                assert operation["security"] == [{"HTTPBearer": []}]
                assert {"401", "403", "422", "500"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_unknown_routes_answer_in_json(client: TestClient) -> None:
    assert_error(client.get("/no/such/route"), 404, "route_not_found")
    assert_error(client.get("/jobs/"), 404, "route_not_found")
    assert_error(client.get("/jobs/%00"), 404, "job_not_found")


def test_a_plain_request_id_is_kept_and_any_other_replaced(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/healthz", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"
    assert client.get("/healthz").headers["x-request-id"] != client.get("/healthz").headers["x-request-id"]


@pytest.mark.parametrize("failure", [RuntimeError("a secret"), DiffFitError("It broke.")])
def test_what_nobody_foresaw_is_a_500_with_a_request_id(settings: Settings, failure: Exception) -> None:
    app = create_app(settings)

    @app.get("/broken")
    def broken() -> None:
        raise failure

    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get("/broken", headers={"x-request-id": "find-me"})
    error = assert_error(response, 500, "internal_error")
    assert response.headers["x-request-id"] == "find-me"
    assert "secret" not in error["message"]


def test_a_body_above_the_limit_is_refused(client: TestClient) -> None:
    ten_megabytes = json.dumps({"name": "x" * 10_000_000}).encode()
    assert_error(client.post("/jobs", content=ten_megabytes, headers=JSON), 413, "body_too_large")
    chunked = client.post("/generate", content=iter([ten_megabytes[:700_000]] * 15), headers=JSON)
    assert_error(chunked, 413, "body_too_large")
    disguised = client.post("/jobs", content=ten_megabytes, headers={"content-type": "multipart/form-data; boundary=x"})
    assert_error(disguised, 413, "body_too_large")


def test_deep_nesting_is_refused(client: TestClient) -> None:
    for opening in (b"[", b'{"a":'):
        for levels in (MAX_NESTING + 1, 1_000, 100_000):
            assert_error(client.post("/jobs", content=opening * levels, headers=JSON), 400, "json_too_deep")


def test_brackets_within_strings_are_no_nesting(client: TestClient) -> None:
    spec = {"base_model": "[" * 100 + '\\"{', "dataset": "x"}
    assert_error(client.post("/jobs", json=spec), 422, "unknown_base_model")


def test_a_database_that_is_away_answers_503_until_it_is_back(client: TestClient, servers: Servers, settings: Settings) -> None:
    """No connection is let in and those that there are break, as while a server is started again."""
    assert client.get("/jobs").status_code == 200
    name = make_url(settings.database_url.get_secret_value()).database
    with servers.maintenance.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        answer = client.get("/jobs")
        assert_error(answer, 503, "database_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    assert client.get("/jobs").status_code == 200
