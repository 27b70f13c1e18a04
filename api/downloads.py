"""Answers that are a file of the object store: streamed, or where the store can be asked directly, a redirect to it."""

from dataclasses import dataclass

from fastapi.responses import RedirectResponse, Response, StreamingResponse

from jobstore.objects import ObjectStore


@dataclass(frozen=True)
class StoredFile:
    """A file that is offered for download, and what the user's copy is called."""

    key: str
    name: str
    size: int  # bytes
    media_type: str

    def answer(self, store: ObjectStore, **headers: str) -> Response:
        """Raises StorageError (`object_missing`) where the store has no such file."""
        if (elsewhere := redirect(store, self.key)) is not None:
            return elsewhere
        headers |= {"content-disposition": f'attachment; filename="{self.name}"', "content-length": str(self.size)}
        return StreamingResponse(store.stream(self.key), media_type=self.media_type, headers=headers)


def redirect(store: ObjectStore, key: str) -> Response | None:
    """The way to the store itself, for some minutes; None where it cannot be asked directly."""
    signed = store.signed_url(key)
    return None if signed is None else RedirectResponse(signed, headers={"cache-control": "no-store"})
