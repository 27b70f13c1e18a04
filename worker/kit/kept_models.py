"""What a worker keeps in memory because it was used last: as much as has room, counted in bytes."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by key. Together they take no more than a limit; the one used last is kept however large it is.

    `limit` and `nbytes` tell bytes, and are asked anew each time: a base is larger while an adapter is merged into it.
    """

    def __init__(self, load: Callable[[str], T], limit: Callable[[], int], nbytes: Callable[[T], int]) -> None:
        self._load, self._limit, self._nbytes = load, limit, nbytes
        self._values: OrderedDict[str, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> T:
        """The value of `key`, loaded where it is not kept."""
        if key not in self._values:
            self._values[key] = self._load(key)
        self._values.move_to_end(key)
        return self._values[key]

    def shrink(self) -> bool:
        """Let go of what was unused for longest until the rest is within the limit; whether there was anything."""
        sizes = {key: self._nbytes(value) for key, value in self._values.items()}
        before, limit = len(sizes), self._limit()
        while len(sizes) > 1 and sum(sizes.values()) > limit:
            key, _ = self._values.popitem(last=False)
            del sizes[key]
        return len(sizes) < before

    def clear(self) -> None:
        self._values.clear()
