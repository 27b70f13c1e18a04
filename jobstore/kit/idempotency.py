"""`Idempotency-Key`: a request that creates something is carried out once, however often it is sent within a day.

Whoever comes first claims the key with a token and keeps the claim alive while it works. What it creates names the token in
the same transaction, so that of two that hold a key only one can commit. The answer is stored afterwards; where the process
died before that, the location of what was created is known all the same.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobstore.kit.errors import ConflictError, InProgressError
from jobstore.kit.tables import IdempotencyKey

KEPT = timedelta(hours=24)
CLAIM = timedelta(seconds=30)  # a process silent for so long has died
RENEW_SECONDS = 10.0
MAX_KEY = 255  # characters
MAX_BODY = 1024**2  # bytes of an answer that are kept


@dataclass(frozen=True)
class Claim:
    """A key that this request holds."""

    tenant_id: str
    key: str
    token: UUID


def begin(session: Session, tenant_id: str, key: str, fingerprint: str) -> Claim | IdempotencyKey:
    """Claim the key; or what the request with this key created.

    Raises ConflictError (`idempotency_key_reused`) where that was another request, InProgressError where it is not yet done.
    """
    claim = Claim(tenant_id, key, uuid4())
    fresh = {"fingerprint": fingerprint, "token": claim.token, "locked_until": func.now() + CLAIM}
    empty = {"location": None, "status": None, "content_type": None, "body": None, "created_at": func.now()}
    row = IdempotencyKey
    dead = row.location.is_(None) & (row.locked_until < func.now()) & (row.fingerprint == fingerprint)
    taken = session.scalar(
        insert(row)
        .values(tenant_id=tenant_id, key=key, **fresh)
        .on_conflict_do_update(
            index_elements=[row.tenant_id, row.key], set_=fresh | empty, where=dead | (row.created_at < func.now() - KEPT)
        )
        .returning(row.token)
    )
    return claim if taken is not None else _done(session, tenant_id, key, fingerprint)


def _done(session: Session, tenant_id: str, key: str, fingerprint: str) -> IdempotencyKey:
    found = session.execute(
        select(IdempotencyKey, IdempotencyKey.locked_until > func.now()).where(
            IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key == key
        )
    ).first()
    if found is not None and found[0].fingerprint != fingerprint:
        raise ConflictError(
            "This Idempotency-Key came with another request before. Make a new key for every new request.",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )
    # A row that is gone belonged to a request that failed just now: the key is free again.
    if found is None or (found[0].status is None and (found[1] or found[0].location is None)):
        raise InProgressError("The first request with this Idempotency-Key is not answered yet. Send it again in a moment.")
    row: IdempotencyKey = found[0]
    return row


def renew(session: Session, claim: Claim) -> None:
    """Keep the claim alive."""
    session.execute(update(IdempotencyKey).where(*_held(claim)).values(locked_until=func.now() + CLAIM))


def created(session: Session, claim: Claim, location: str) -> None:
    """Note what the request creates, in the transaction that creates it. Raises InProgressError where the claim was lost."""
    noted = update(IdempotencyKey).where(*_held(claim)).values(location=location).returning(IdempotencyKey.token)
    if session.scalar(noted) is None:
        raise InProgressError("Another request with this Idempotency-Key has taken over. Send it again in a moment.")


def finish(session: Session, claim: Claim, status: int, content_type: str, body: bytes | None) -> None:
    """Store the answer of a request that created something; free the key of one that did not."""
    if not 200 <= status < 300:
        session.execute(delete(IdempotencyKey).where(*_held(claim), IdempotencyKey.location.is_(None)))
        return
    answer = {"status": status, "content_type": content_type, "body": body}
    stored = update(IdempotencyKey).where(*_held(claim), IdempotencyKey.location.is_not(None)).values(answer)
    if session.scalar(stored.returning(IdempotencyKey.token)) is None:
        session.execute(delete(IdempotencyKey).where(*_held(claim)))


def forget_old(session: Session) -> None:
    """Delete the keys that count no more."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - KEPT))


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    row = IdempotencyKey
    return row.tenant_id == claim.tenant_id, row.key == claim.key, row.token == claim.token
