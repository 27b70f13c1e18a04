"""Settings refuse what cannot work, and name the variable."""

import pytest
from pydantic import ValidationError

from jobstore.kit.settings import Settings

GOOD = {
    "DATABASE_URL": "postgresql://u:p@host/db",
    "REDIS_URL": "redis://host:6379/0",
    "DIFFFIT_STORAGE_URL": "file:///files",
}


def load(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in (GOOD | changes).items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.mark.parametrize("url", ["postgresql://u:p@host/db", "postgres://u:p@host/db", "postgresql+psycopg://u:p@host/db"])
def test_every_spelling_of_postgresql_means_psycopg(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    settings = load(monkeypatch, DATABASE_URL=url)
    assert settings.database_url.get_secret_value() == "postgresql+psycopg://u:p@host/db"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, DATABASE_URL="postgresql://u:hidden@host/db", DIFFFIT_API_KEY="hidden" * 5)
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other, value in GOOD.items():
        monkeypatch.setenv(other, value)
    monkeypatch.delenv(name)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert str(refused.value.errors()[0]["loc"][0]).upper() in name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "sqlite:///file.db"),
        ("DATABASE_URL", "mysql://u@host/db"),
        ("DIFFFIT_API_KEY", "change-me"),
        ("DIFFFIT_LEASE_SECONDS", "0"),
        ("DIFFFIT_LEASE_SECONDS", "soon"),
        ("DIFFFIT_HEARTBEAT_SECONDS", "-1"),
        ("DIFFFIT_MAX_ATTEMPTS", "0"),
        ("DIFFFIT_MAX_UPLOAD_BYTES", "-5"),
        ("DIFFFIT_MAX_UNPACK_RATIO", "1"),
    ],
)
def test_bad_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        load(monkeypatch, **{name: value})
