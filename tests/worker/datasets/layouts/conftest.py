"""Layouts need no database: these tests have settings of their own."""

from pathlib import Path

import pytest

from jobstore.kit.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {"DATABASE_URL": "postgresql://localhost/none", "REDIS_URL": "redis://localhost", "storage_url": tmp_path.as_uri()}
    )


@pytest.fixture(autouse=True)
def fast_settings(settings: Settings) -> Settings:
    return settings
