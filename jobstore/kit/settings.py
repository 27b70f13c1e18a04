"""Every setting of the service, read from the environment; the README's table of settings is held against this file."""

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from difffit_core.evaluation.metrics import FeatureWeights
from difffit_core.spec.catalog import MODELS_DIR, PACKAGED_CATALOG

MEBIBYTE = 1024**2
MINIMUM_KEY_LENGTH = 24  # characters; shorter keys could be guessed


class Settings(BaseSettings):
    """Settings of one process. Names in the environment are upper case and begin with DIFFFIT_, except the two URLs."""

    # A wrong value may be a password: errors name the setting only.
    model_config = SettingsConfigDict(env_prefix="DIFFFIT_", extra="ignore", hide_input_in_errors=True)

    database_url: SecretStr = Field(alias="DATABASE_URL", description="PostgreSQL, as postgresql://user:password@host/database")
    redis_url: SecretStr = Field(alias="REDIS_URL", description="Valkey or Redis, as redis://host:6379/0")
    storage_url: str = Field(description="Where files are kept: file:///a/folder or s3://bucket/prefix")
    signed_urls: bool = Field(False, description="Send downloads and large uploads to the S3 bucket by signed URLs")
    models: Path = Field(PACKAGED_CATALOG, description="The catalog of base models (models.toml)")
    models_dir: Path = Field(MODELS_DIR, description="Where `difffit models fetch` puts base models, and workers find them")
    work_dir: Path = Field(Path("/tmp/difffit"), description="Scratch space of workers; safe to delete when they are stopped")
    api_key: SecretStr | None = Field(None, description="The admin key that migrations install for the tenant `default`")
    device: str = Field("auto", description="Where workers compute: auto, cpu or cuda")
    inception_weights: Path | None = Field(
        None, description="The file of Inception that FID is measured with; workers fetch it to there if it is missing"
    )
    captioner: Path | None = Field(None, description="A folder with a BLIP model, for jobs that have captions written")
    clip_model: Path | None = Field(None, description="A folder with the CLIP model that CLIP scores are measured with")
    heartbeat_file: Path | None = Field(None, description="A worker touches this file while it is healthy")

    lease_seconds: Annotated[float, Field(gt=0)] = Field(30.0, description="A worker silent for so long loses its job")
    heartbeat_seconds: Annotated[float, Field(gt=0)] = Field(1.0, description="Between renewals of a lease")
    sweep_seconds: Annotated[float, Field(gt=0)] = Field(5.0, description="Between searches for lost messages and leases")
    stop_grace_seconds: Annotated[float, Field(gt=0)] = Field(60.0, description="From asking a trainer to stop to killing it")
    silence_seconds: Annotated[float, Field(gt=0)] = Field(
        1800.0, description="A trainer that reports nothing for so long hangs: it is killed, and the attempt is lost"
    )
    max_attempts: Annotated[int, Field(ge=1)] = Field(3, description="After so many lost workers a job fails")

    keep_checkpoints: Annotated[int, Field(ge=1)] = Field(3, description="Training states that are kept of each job")
    keep_encodings_days: Annotated[float, Field(gt=0)] = Field(
        30.0, description="Encoded datasets that no job has used for so long are deleted"
    )
    keep_pictures_days: Annotated[float, Field(gt=0)] = Field(
        90.0, description="Generations are deleted so long after their end, with their pictures and texts"
    )
    garbage_grace_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="Files that no row names are deleted after it; longer than any upload takes to be recorded"
    )
    min_free_bytes: Annotated[int, Field(ge=0)] = Field(
        1024 * MEBIBYTE, description="A worker with less free space in its work_dir takes no job and checks no dataset"
    )

    max_upload_bytes: Annotated[int, Field(gt=0)] = Field(8192 * MEBIBYTE, description="Largest dataset upload")
    max_unpacked_bytes: Annotated[int, Field(gt=0)] = Field(32768 * MEBIBYTE, description="Largest unpacked dataset")
    max_unpack_ratio: Annotated[float, Field(gt=1)] = Field(
        50.0, description="Unpacked to packed size, above which it is refused"
    )
    max_archive_files: Annotated[int, Field(gt=0)] = Field(200_000, description="Most files in a dataset")
    max_image_pixels: Annotated[int, Field(gt=0)] = Field(50_000_000, description="Largest image in a dataset, width x height")
    max_json_bytes: Annotated[int, Field(gt=0)] = Field(1 * MEBIBYTE, description="Largest JSON body")
    request_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="Longest that a client may take over a request's head, a JSON body, or 64 KiB of an upload"
    )
    database_seconds: Annotated[float, Field(gt=0)] = Field(
        8.0, description="Longest that a request waits for its turn at the database, and for each answer of it"
    )

    tenant_storage_bytes: Annotated[int, Field(ge=0)] = Field(
        100 * 1024 * MEBIBYTE, description="What a tenant may store, see docs/operating.md"
    )
    tenant_queued_jobs: Annotated[int, Field(ge=0)] = Field(1000, description="Most waiting jobs of a tenant")
    tenant_running_jobs: Annotated[int, Field(ge=1)] = Field(100, description="Most jobs of a tenant at work; others wait")
    tenant_generate_per_minute: Annotated[int, Field(ge=0)] = Field(600, description="Most POST /generate of a tenant")

    webhook_private_addresses: bool = Field(False, description="Let webhooks go to private and loopback addresses too")

    @property
    def feature_weights(self) -> FeatureWeights:
        """What evaluations measure with."""
        paths = {"inception": self.inception_weights, "clip": self.clip_model}
        return FeatureWeights.model_validate({name: path and str(path) for name, path in paths.items()})

    @field_validator("database_url")
    @classmethod
    def _psycopg(cls, url: SecretStr) -> SecretStr:
        value = url.get_secret_value()
        scheme, _, rest = value.partition("://")
        if scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
            raise ValueError("DATABASE_URL must begin with postgresql://; no other database is supported")
        return SecretStr(f"postgresql+psycopg://{rest}")

    @field_validator("api_key")
    @classmethod
    def _no_guessable_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < MINIMUM_KEY_LENGTH:
            raise ValueError(
                f"DIFFFIT_API_KEY must have at least {MINIMUM_KEY_LENGTH} characters; `openssl rand -hex 24` makes one"
            )
        return key


@cache
def get_settings() -> Settings:
    """The settings of this process. Raises pydantic's ValidationError that names each missing or wrong variable."""
    return Settings()
