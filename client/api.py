"""The service's HTTP interface as Python methods: one small method a route, one exception for every refusal."""

import base64
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError, connect_sse

from client.connection import Connection, path_of, pauses, raise_for_refusal
from client.errors import ApiError, UnreachableError
from client.responses import (
    Dataset,
    Evaluation,
    Event,
    Generation,
    Job,
    Key,
    Model,
    NewKey,
    NewTenant,
    Page,
    Plan,
    Tenant,
    Usage,
)
from client.tus import ResumableUpload
from client.upload import CHUNK, MultipartBody, ProgressCallback, is_whole_dataset

UPLOAD_TIMEOUT = httpx.Timeout(300.0, connect=10.0)  # after the last byte the server still moves the file into its store
PLAN_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # the server itself waits up to 20 seconds for a worker
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # a stream that is silent for longer is opened again
EXPORT_PAUSE = 1.0  # seconds between two questions whether an export is made
GENERATE_WAIT = 60  # seconds; the longest the server holds an answer back
SILENCE_LIMIT = 60.0  # seconds without any contact after which watching gives up
ONE_REQUEST_BYTES = 64 * 1024**2  # up to here an upload is sent whole
ENDED = frozenset({"succeeded", "failed", "cancelled"})


class Client(Connection):
    """A connection to one server. Close it, or use it in a `with` block; one thread at a time."""

    def upload_dataset(
        self,
        files: Sequence[Path],
        *,
        name: str | None = None,
        label: str | None = None,
        format: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Dataset:
        """Send one archive or file of texts, of the layout `format` if named, or loose images of the class `label` or of none.

        Memory use is constant. A large archive goes in parts: what cuts the connection costs one part, and another call
        of this goes on within a day.
        """
        if len(files) == 1 and is_whole_dataset(files[0]) and files[0].stat().st_size > ONE_REQUEST_BYTES:
            return self._upload_in_parts(files[0], name, format, progress or (lambda sent, total: None))
        fields = {key: value for key, value in (("name", name), ("label", label), ("format", format)) if value is not None}
        body = MultipartBody(fields, files, progress)
        dataset: Dataset = self._json("POST", "/datasets", content=iter(body), headers=body.headers, timeout=UPLOAD_TIMEOUT)
        return dataset

    def _upload_in_parts(self, path: Path, name: str | None, format: str | None, progress: ProgressCallback) -> Dataset:
        upload = ResumableUpload(path, name)
        url, heard = upload.begin(self._request), time.monotonic()
        offset = upload.length if upload.put_whole(self._request, url, progress) else -1  # not known, ask the server
        while offset < upload.length:
            try:
                offset = upload.ask(self._request, url) if offset < 0 else upload.send_part(self._request, url, offset)
                heard = time.monotonic()
                progress(offset, upload.length)
            except (UnreachableError, ApiError) as error:
                refused = isinstance(error, ApiError) and error.status < 500 and error.code not in upload.PASSING
                if refused or time.monotonic() - heard > SILENCE_LIMIT:
                    raise
                offset = -1
                time.sleep(1.0)
        dataset: Dataset = self._create(
            f"{url}/dataset", headers=upload.VERSION, params={} if format is None else {"format": format}
        )
        return dataset

    def dataset(self, dataset_id: str) -> Dataset:
        dataset: Dataset = self._json("GET", path_of("datasets", dataset_id))
        return dataset

    def datasets(self, *, limit: int = 20, after: str | None = None) -> Page[Dataset]:
        page: Page[Dataset] = self._json("GET", "/datasets", params=page_of(limit, after))
        return page

    def wait_dataset(self, dataset_id: str, *, timeout: float | None = None) -> Dataset:
        """Wait until the server has checked the upload; the answer is `ready` or `failed`. Raises TimeoutError."""
        for _ in pauses(timeout):
            dataset = self.dataset(dataset_id)
            if dataset["status"] != "checking":
                return dataset
        raise TimeoutError(f"Dataset {dataset_id} is still being checked after {timeout:.0f} seconds.")

    def models(self) -> Page[Model]:
        page: Page[Model] = self._json("GET", "/models")
        return page

    def create_job(self, spec: Mapping[str, Any]) -> Job:
        """Start a training job; `spec` is the body of `POST /jobs` (difffit_core.spec.job.JobSpec), checked by the server."""
        job: Job = self._create("/jobs", json=dict(spec))
        return job

    def plan_job(self, spec: Mapping[str, Any]) -> Plan:
        """What a job would do and need, every "auto" resolved; starts nothing. May wait some seconds for a worker."""
        plan: Plan = self._json("POST", "/jobs", json=dict(spec), params={"dry_run": "true"}, timeout=PLAN_TIMEOUT)
        return plan

    def job(self, job_id: str) -> Job:
        job: Job = self._json("GET", path_of("jobs", job_id))
        return job

    def jobs(self, *, limit: int = 20, after: str | None = None) -> Page[Job]:
        page: Page[Job] = self._json("GET", "/jobs", params=page_of(limit, after))
        return page

    def cancel_job(self, job_id: str) -> Job:
        job: Job = self._json("POST", path_of("jobs", job_id, "cancel"))
        return job

    def pause_job(self, job_id: str) -> Job:
        job: Job = self._json("POST", path_of("jobs", job_id, "pause"))
        return job

    def resume_job(self, job_id: str) -> Job:
        job: Job = self._json("POST", path_of("jobs", job_id, "resume"))
        return job

    def retry_job(self, job_id: str) -> Job:
        job: Job = self._json("POST", path_of("jobs", job_id, "retry"))
        return job

    def delete_job(self, job_id: str) -> None:
        """Delete a job that has ended; its adapter stays."""
        self._request("DELETE", path_of("jobs", job_id))

    def watch_job(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Every event of a job after sequence number `after`, as it happens, until the job has ended.

        A broken connection is opened again where it broke off. Raises UnreachableError after a minute without contact.
        """
        last, heard = after, time.monotonic()
        while True:
            try:
                # Asked before the stream is opened: of a job that had ended by then, the stream gives every event there is.
                ended, resumed_from = self.job(job_id)["status"] in ENDED, last
                heard = time.monotonic()
                for event in self._event_stream(job_id, last):
                    last, heard = event["sequence"], time.monotonic()
                    yield event
                if ended:
                    return
                if last == resumed_from:
                    time.sleep(1.0)
            except (UnreachableError, ApiError) as error:
                refused = isinstance(error, ApiError) and error.status < 500
                if refused or time.monotonic() - heard > SILENCE_LIMIT:
                    raise
                time.sleep(1.0)

    def _event_stream(self, job_id: str, after: int) -> Iterator[Event]:
        path, headers = path_of("jobs", job_id, "events"), {"last-event-id": str(after)}
        try:
            with connect_sse(self._http, "GET", path, headers=headers, timeout=STREAM_TIMEOUT) as source:
                raise_for_refusal(source.response)
                if source.response.status_code != 204:  # the job has ended, and nothing follows
                    yield from _events(source)
        except (httpx.TransportError, SSEError) as error:
            raise self._unreachable(error) from error

    def generate(
        self,
        labels: Sequence[str | int] | None = None,
        *,
        prompts: Sequence[str] | None = None,
        condition_image: Path | None = None,
        **settings: Any,
    ) -> Generation:
        """`n` images of each label or prompt, or texts, from an `adapter` or a `base_model`; waits for them or the failure.

        `settings` are the other fields of `POST /generate`; those that are None are left out. A ControlNet's pictures follow
        the file `condition_image`.
        """
        asked = settings | {"labels": labels and list(labels), "prompts": prompts and list(prompts)}
        if condition_image is not None:
            asked["condition_image"] = base64.b64encode(condition_image.read_bytes()).decode()
        generation: Generation = self._create(
            "/generate",
            json={key: value for key, value in asked.items() if value is not None},
            headers={"prefer": f"wait={GENERATE_WAIT}"},
            timeout=httpx.Timeout(GENERATE_WAIT + 30.0, connect=10.0),
        )
        for _ in pauses(None):
            if generation["status"] in ENDED:
                break
            generation = self.generation(generation["id"])
        return generation

    def generation(self, generation_id: str) -> Generation:
        generation: Generation = self._json("GET", path_of("generate", generation_id))
        return generation

    def create_evaluation(self, request: Mapping[str, Any]) -> Evaluation:
        """Measure a model against a dataset; `request` is the body of `POST /evaluations`, checked by the server."""
        evaluation: Evaluation = self._create("/evaluations", json=dict(request))
        return evaluation

    def evaluation(self, evaluation_id: str) -> Evaluation:
        evaluation: Evaluation = self._json("GET", path_of("evaluations", evaluation_id))
        return evaluation

    def evaluations(self, *, limit: int = 20, after: str | None = None) -> Page[Evaluation]:
        page: Page[Evaluation] = self._json("GET", "/evaluations", params=page_of(limit, after))
        return page

    def watch_evaluation(self, evaluation_id: str) -> Iterator[Evaluation]:
        """An evaluation as it gets on, until it has ended."""
        for _ in pauses(None):
            evaluation = self.evaluation(evaluation_id)
            yield evaluation
            if evaluation["status"] in ENDED:
                return

    def delete_evaluation(self, evaluation_id: str) -> None:
        """Delete an evaluation; one that runs is stopped."""
        self._request("DELETE", path_of("evaluations", evaluation_id))

    def image_bytes(self, url: str) -> bytes:
        """The PNG behind an image's `url`, a path on this server."""
        return self._request("GET", url, follow_redirects=True).content

    def download_adapter(
        self, source: str, target: Path, progress: ProgressCallback | None = None, *, file_format: str = "difffit"
    ) -> int:
        """Save an adapter, or that of a finished job, as `target`; return its size in bytes. Never leaves half a file there.

        The formats `peft` and `merged` are archives that the server makes at the first request; this waits for them.
        """
        of_job = source.startswith("job_")
        path = path_of("jobs", source, "adapter") if of_job else path_of("adapters", source, "download")
        partial = target.with_name(f"{target.name}.part-{secrets.token_hex(4)}")
        try:
            while (size := self._save(path, {"format": file_format}, partial, progress)) is None:
                time.sleep(EXPORT_PAUSE)
            os.replace(partial, target)  # noqa: PTH105  # says what it is: an atomic replacement
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        finally:
            partial.unlink(missing_ok=True)
        return size

    def _save(self, path: str, params: Mapping[str, str], target: Path, progress: ProgressCallback | None) -> int | None:
        """Write an answer to a new file and return its size; None where the server is still making it."""
        with self._http.stream("GET", path, params=dict(params), follow_redirects=True) as response:
            raise_for_refusal(response)
            if response.status_code == httpx.codes.ACCEPTED:
                return None
            total, received = int(response.headers.get("content-length", 0)), 0
            with target.open("xb") as file:
                for chunk in response.iter_bytes(CHUNK):
                    received += file.write(chunk)
                    if progress is not None:
                        progress(received, max(total, received))
        return received

    def create_key(self, name: str, *, scope: str = "write", expires_in_days: int | None = None) -> NewKey:
        """A new key of this tenant; `key` is in no other answer."""
        asked = {"name": name, "scope": scope, "expires_in_days": expires_in_days}
        key: NewKey = self._json("POST", "/keys", json=asked)
        return key

    def keys(self, *, limit: int = 20, after: str | None = None) -> Page[Key]:
        page: Page[Key] = self._json("GET", "/keys", params=page_of(limit, after))
        return page

    def rotate_key(self, key_id: str, *, grace_seconds: int = 0) -> NewKey:
        """A new key in place of this one, which works `grace_seconds` longer."""
        key: NewKey = self._json("POST", path_of("keys", key_id, "rotate"), json={"grace_seconds": grace_seconds})
        return key

    def revoke_key(self, key_id: str) -> None:
        self._request("DELETE", path_of("keys", key_id))

    def create_tenant(self, name: str) -> NewTenant:
        """A new tenant with its first admin key; wants an admin key of the operator's tenant."""
        tenant: NewTenant = self._json("POST", "/tenants", json={"name": name})
        return tenant

    def tenants(self, *, limit: int = 20, after: str | None = None) -> Page[Tenant]:
        page: Page[Tenant] = self._json("GET", "/tenants", params=page_of(limit, after))
        return page

    def set_limits(self, tenant_id: str, limits: Mapping[str, int]) -> Tenant:
        """Set all limits of a tenant: those given, and the server's settings for the others."""
        tenant: Tenant = self._json("PUT", path_of("tenants", tenant_id, "limits"), json=dict(limits))
        return tenant

    def usage(self) -> Usage:
        """What this tenant uses, and how much it may."""
        usage: Usage = self._json("GET", "/usage")
        return usage


def _events(source: EventSource) -> Iterator[Event]:
    for message in source.iter_sse():
        if message.data:
            yield Event(sequence=int(message.id), type=message.event, data=message.json())


def page_of(limit: int, after: str | None) -> dict[str, str | int]:
    return {"limit": limit} if after is None else {"limit": limit, "after": after}
