"""Keys that were looked up lately: most requests are let in without asking the database, and a revoked key never is."""

import time
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from api.kit.database_turns import DatabaseTurns
from jobstore.tenants.keys import OpenedKey, hash_key, open_key

KEPT_SECONDS = 60.0  # then a key is looked up again, which notes its use


@dataclass(frozen=True)
class Kept:
    """An opened key and the time, by this process's clock, until which that answer holds."""

    key: OpenedKey
    until: float


class KeyRing:
    """Valid keys by their hash. `forget` is called for every key that the database says has changed.

    It trusts what it keeps only while the process hears of such changes (`listening`).
    """

    def __init__(self, sessions: sessionmaker[Session], turns: DatabaseTurns) -> None:
        self.listening = False
        self._sessions, self._turns = sessions, turns
        self._kept: dict[str, Kept] = {}
        self._changes = 0

    async def open(self, key: str) -> OpenedKey | None:
        """What the key opens, None where it is unknown."""
        digest = hash_key(key)
        kept = self._kept.get(digest)
        if kept is not None and self.listening and time.monotonic() < kept.until:
            return kept.key
        changes, now = self._changes, time.monotonic()
        opened = await self._turns.run(self._look_up, key)
        # A change that was heard meanwhile may be one of this key, and the look-up may have been before it.
        if opened is not None and opened.state == "valid" and changes == self._changes:
            self._kept[digest] = Kept(opened, min(opened.expires, now + KEPT_SECONDS))
        return opened

    def forget(self, key_id: str) -> None:
        self._changes += 1
        self._kept = {digest: kept for digest, kept in self._kept.items() if kept.key.id != key_id}

    def forget_all(self) -> None:
        self._changes += 1
        self._kept = {}

    def _look_up(self, key: str) -> OpenedKey | None:
        # The transaction ends here: a request that waits for a thread must hold no connection.
        with self._sessions.begin() as session:
            return open_key(session, key)


class KeyWatch:
    """The key of a caller whose stream stays open: the stream ends when the key opens nothing any more."""

    def __init__(self, keyring: KeyRing, text: str, key: OpenedKey) -> None:
        self.key_id = key.id
        self._keyring, self._text, self._expires = keyring, text, key.expires

    @property
    def seconds_left(self) -> float:
        """Until the key expires, if nothing is changed about it."""
        return max(0.0, self._expires - time.monotonic())

    async def opens(self) -> bool:
        """Whether it opens something; asked when it is said to have changed, and when no second is left."""
        key = await self._keyring.open(self._text)
        if key is None or key.state != "valid":
            return False
        self._expires = key.expires
        return True
