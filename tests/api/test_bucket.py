"""The API on an S3 bucket: uploads go into it, adapters come out of it, through the API or by a signed URL."""

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jobstore.objects import ObjectStore
from jobstore.settings import Settings
from tests.api.conftest import Rows, bearer
from tests.api.test_datasets import upload


@pytest.mark.parametrize("signed", [False, True])
def test_files_go_into_the_bucket_and_come_out(
    settings: Settings, bucket_url: str, rows: Rows, api_key: str, client: TestClient, signed: bool
) -> None:
    adapter = rows.adapter(rows.job(client, "succeeded"), b"weights")
    store = ObjectStore(bucket_url)
    store.put_bytes(adapter.object_key, b"weights")
    in_bucket = settings.model_copy(update={"storage_url": bucket_url, "signed_downloads": signed})
    with TestClient(create_app(in_bucket), headers=bearer(api_key)) as on_bucket:
        assert on_bucket.get("/readyz").status_code == 200
        large = b"x" * 12_000_000  # goes up in three parts
        dataset = upload(on_bucket, [("file", ("a.zip", large))]).json()
        assert store.get_bytes(f"datasets/{dataset['id']}/upload") == large
        answer = on_bucket.get(f"/adapters/{adapter.id}/download", follow_redirects=False)
    if signed:
        assert answer.status_code == 307
        assert httpx.get(answer.headers["location"]).content == b"weights"
    else:
        assert (answer.status_code, answer.content) == (200, b"weights")
