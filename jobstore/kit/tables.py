"""The tables. Every row that belongs to somebody carries `tenant_id`; the database row is the truth about a job."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, MetaData, String, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from difffit_core.spec.job import TrainingSpec

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: TIMESTAMP(timezone=True),
        Json: JSONB(none_as_null=True),
        str: String,
        int: BigInteger,
    }


def in_line(table: str, status: str = "queued") -> tuple[Index, Index]:
    """What `turns` looks into: the rows of each tenant that wait, in their order, and those that a worker has."""
    waiting = Index(f"ix_{table}_waiting", "tenant_id", "id", postgresql_where=text(f"status = '{status}'"))
    at_work = Index(f"ix_{table}_at_work", "tenant_id", postgresql_where=text("lease_token IS NOT NULL"))
    return waiting, at_work


class Leased:
    """Columns of work that a worker claims, renews and finishes under a lease token."""

    lease_token: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(default=0)
    woken_at: Mapped[datetime | None]  # when the sweeper last sent a message for the waiting row


class Tenant(Base):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    limits: Mapped[Json] = mapped_column(default=dict)  # those that differ from the settings; see `quotas`
    served_at: Mapped[datetime | None]  # when a worker last took a job of this tenant: the others' turn comes first
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Turn(Base):
    """When a worker last served a tenant with one kind of work that is no training; see `turns`."""

    __tablename__ = "turns"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    served_at: Mapped[datetime]


class ApiKey(Base):
    """A key is stored as its SHA-256 only. Scope: read, write, admin; each includes those before it."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_tenant_id_id", "tenant_id", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    scope: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]  # the key's last characters, by which people tell keys apart
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to a few minutes


class Dataset(Leased, Base):
    """An upload and what the check found in it. Status: checking, ready, failed, deleted."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_tenant_id_id", "tenant_id", "id"), *in_line("datasets", "checking"))
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    status: Mapped[str]
    format: Mapped[str | None]  # the layout that the sender names, see `formats`; null: the one that is recognised
    upload_key: Mapped[str]  # the object exactly as the user sent it, or the prefix of the parts
    upload_parts: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))  # names of parts, in order
    upload_bytes: Mapped[int]
    upload_name: Mapped[str | None]  # what the user calls the file; null: loose files, or nobody said
    content_key: Mapped[str | None]  # the checked images as one tar, what a worker stages
    preview_key: Mapped[str | None]
    content_bytes: Mapped[int] = mapped_column(default=0)  # of both
    sha256: Mapped[str | None]  # of the checked content; equal content, equal hash
    classes: Mapped[Json | None]  # {class name: number of examples}
    holds: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))  # what every example has, see `dataset.Item`
    frame: Mapped[str | None]  # what texts are written for: alpaca, chat, none
    report: Mapped[Json | None]
    error: Mapped[Json | None]  # {code, message, param}
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Upload(Base):
    """An upload that arrives in pieces and becomes a dataset when it is whole."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_tenant_id_id", "tenant_id", "id"), Index("ix_uploads_expires_at", "expires_at"))
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    file_name: Mapped[str | None]  # what the user calls the file
    length: Mapped[int]
    offset: Mapped[int]  # bytes that have arrived
    parts: Mapped[list[str]] = mapped_column(JSONB)  # names of the objects with those bytes, in order
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class Job(Leased, Base):
    """A fine-tuning job. Status: see `lifecycle`."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
        Index("ix_jobs_status", "status"),
        Index("ix_jobs_dataset_id", "dataset_id"),
        Index("ix_jobs_lease_expires_at", "lease_expires_at", postgresql_where=text("lease_expires_at IS NOT NULL")),
        # The queue of each tenant in the order in which its jobs are taken.
        Index("ix_jobs_waiting", "tenant_id", text("priority DESC"), "id", postgresql_where=text("status = 'queued'")),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    name: Mapped[str | None]
    status: Mapped[str]
    base_model: Mapped[str]
    spec: Mapped[Json]  # the JobSpec as it was posted
    training_spec: Mapped[Json]  # the TrainingSpec it resolved to
    init_adapter_id: Mapped[str | None] = mapped_column(ForeignKey("adapters.id", use_alter=True))  # initial values
    priority: Mapped[int] = mapped_column(default=0)  # among the tenant's own jobs; higher is sooner
    max_duration: Mapped[int | None]  # seconds with a worker, over all attempts
    seconds_used: Mapped[float] = mapped_column(default=0.0)  # with a worker, until the lease that is open now
    claimed_at: Mapped[datetime | None]  # when that lease began
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int]
    samples_per_second: Mapped[float | None]
    seconds_remaining: Mapped[float | None]
    losses: Mapped[Json] = mapped_column(default=dict)  # {train, validation_base, validation}
    trained_parameters: Mapped[int | None]
    total_parameters: Mapped[int | None]
    error: Mapped[Json | None]  # {code, message, param}
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]

    @property
    def plan(self) -> TrainingSpec:
        """`training_spec`, validated."""
        return TrainingSpec.model_validate(self.training_spec)


class JobEvent(Base):
    """Append-only; `sequence` counts from 1 within a job."""

    __tablename__ = "job_events"
    __table_args__ = (UniqueConstraint("job_id", "sequence"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    sequence: Mapped[int]
    type: Mapped[str]
    data: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Encoding(Base):
    """The encoded examples of a tenant's dataset, which its jobs share; see `encodings`."""

    __tablename__ = "encodings"
    __table_args__ = (Index("ix_encodings_object_key", "object_key"),)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)  # hash of all that they depend on
    dataset_sha256: Mapped[str]  # of the content that was encoded
    object_key: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]  # of the object
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Checkpoint(Base):
    """A training state in the object store from which a job can go on."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"), Index("ix_checkpoints_object_key", "object_key"))
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    step: Mapped[int]
    object_key: Mapped[str]
    bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Adapter(Base):
    __tablename__ = "adapters"
    __table_args__ = (Index("ix_adapters_object_key", "object_key"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    base_model: Mapped[str]
    object_key: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    class_names: Mapped[list[str]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]  # the row stays, because generations name it


class Generation(Leased, Base):
    """A request for images or for texts. Status: queued, running, succeeded, failed."""

    __tablename__ = "generations"
    __table_args__ = (
        Index("ix_generations_tenant_id_id", "tenant_id", "id"),
        *in_line("generations"),
        Index("ix_generations_condition_key", "condition_key"),
        Index("ix_generations_finished_at", "finished_at"),
        Index("ix_generations_conditions", "tenant_id", postgresql_where=text("condition_key IS NOT NULL")),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    adapter_id: Mapped[str | None] = mapped_column(ForeignKey("adapters.id"))
    base_model: Mapped[str]
    status: Mapped[str]
    parameters: Mapped[Json]  # the GenerationSpec or TextGenerationSpec, every default resolved and the real seed in it
    condition_key: Mapped[str | None]  # the condition picture, as it was sent
    condition_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    texts: Mapped[list[Json] | None] = mapped_column(JSONB(none_as_null=True))  # [{text, tokens, finish_reason}]
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Export(Leased, Base):
    """An adapter in another format, as one archive, made on demand. Status: queued, running, succeeded, failed."""

    __tablename__ = "exports"
    __table_args__ = (
        UniqueConstraint("adapter_id", "format"),
        Index("ix_exports_object_key", "object_key"),
        *in_line("exports"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"))
    format: Mapped[str]
    status: Mapped[str]
    object_key: Mapped[str | None]
    bytes: Mapped[int | None]
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Evaluation(Leased, Base):
    """The pictures of an adapter or a base, measured against a dataset's. Status: queued, running, succeeded, failed."""

    __tablename__ = "evaluations"
    __table_args__ = (
        Index("ix_evaluations_tenant_id_id", "tenant_id", "id"),
        *in_line("evaluations"),
        Index("ix_evaluations_dataset_id", "dataset_id"),
        Index("ix_evaluations_adapter_id", "adapter_id"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    adapter_id: Mapped[str | None] = mapped_column(ForeignKey("adapters.id"))
    base_model: Mapped[str]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    task: Mapped[str]  # of the model
    status: Mapped[str]
    parameters: Mapped[Json]  # the EvaluationSpec
    samples_done: Mapped[int] = mapped_column(default=0)
    figures: Mapped[list[Json] | None] = mapped_column(JSONB(none_as_null=True))  # each a Figure
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Estimate(Leased, Base):
    """What a training needs, as a worker computes it. Status: queued, running, succeeded, failed.

    It serves all tenants: nothing but numbers and operators' names of models is in it, see
    `difffit_core.planning.estimate.cache_key`.
    """

    __tablename__ = "estimates"
    __table_args__ = (*in_line("estimates"), Index("ix_estimates_created_at", "created_at"))
    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)  # SHA-256 of all that the answer depends on
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))  # who asked first
    status: Mapped[str]
    spec: Mapped[Json]  # a TrainingSpec
    result: Mapped[Json | None]  # a `difffit_core.planning.estimate.Estimate`
    error: Mapped[Json | None]  # {code, message, param}
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Webhook(Base):
    """An endpoint that a tenant wants to be told at."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_tenant_id_id", "tenant_id", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(JSONB)
    secret: Mapped[str]  # signing needs it as it is
    failures: Mapped[int] = mapped_column(default=0, server_default="0")  # one after the other, until now
    rests_until: Mapped[datetime | None]  # nothing is sent before
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Delivery(Base):
    """The outbox of webhooks. Status: pending, delivered, failed."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
        Index("ix_webhook_deliveries_due", "webhook_id", "next_try_at", postgresql_where=text("next_try_at IS NOT NULL")),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    type: Mapped[str]
    body: Mapped[str]  # the bytes that are signed and sent, the same at every attempt
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None]  # null: no more
    give_up_at: Mapped[datetime]
    response_status: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """A request that creates something and may come again; see `idempotency`."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]  # SHA-256 of what tells the request from another
    token: Mapped[UUID]  # of the request that holds the key
    locked_until: Mapped[datetime]  # a request silent for longer has died
    location: Mapped[str | None]  # of what was created, from the transaction that did it
    status: Mapped[int | None]  # of the answer; null until it is stored
    content_type: Mapped[str | None]
    body: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Image(Base):
    """A picture of a generation, or what a job made while it trained: a sample grid, or the texts of a language model."""

    __tablename__ = "images"
    __table_args__ = (
        Index("ix_images_tenant_id", "tenant_id"),
        Index("ix_images_generation_id", "generation_id"),
        Index("ix_images_job_id", "job_id"),
        Index("ix_images_object_key", "object_key"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    generation_id: Mapped[str | None] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    position: Mapped[int]  # index in the generation, or the job's step
    object_key: Mapped[str]
    bytes: Mapped[int] = mapped_column(default=0)
    width: Mapped[int | None]  # null for texts
    height: Mapped[int | None]
    details: Mapped[Json]  # {label, seed} of a generated image; {labels} of a sample
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
