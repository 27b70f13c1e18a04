"""How much memory computing takes at its peak, followed tensor by tensor; without weights it takes no memory to find out."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Follows what is allocated and let go while it is open, beside the tensors that it is told are `there` already.

    `peak` is the most there was at once, gradients of the parameters included; `peak_activations` the most without them.
    """

    def __init__(self, there: Iterable[Tensor], parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}  # by the id of a storage that lives; none for what was there
        self._gradients: set[int] = set()
        self._references: dict[int, weakref.ref[UntypedStorage]] = {}
        self._kept = list(there)
        for tensor in self._kept:
            self._follow(tensor.untyped_storage(), size=0)
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._on_gradient) for parameter in parameters]
        self._activations = self._of_gradients = 0
        self.peak = self.peak_activations = 0

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if id(storage) not in self._sizes:
                    self._follow(storage, storage.nbytes())
        self.peak_activations = max(self.peak_activations, self._activations)
        self.peak = max(self.peak, self._activations + self._of_gradients)
        return result

    def _follow(self, storage: UntypedStorage, size: int) -> None:
        key = id(storage)
        self._sizes[key] = size
        self._references[key] = weakref.ref(storage, self._forget(key))
        if size:
            self._activations += size

    def _forget(self, key: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            size = self._sizes.pop(key)
            del self._references[key]
            if key in self._gradients:
                self._gradients.discard(key)
                self._of_gradients -= size
            else:
                self._activations -= size

        return forget

    def _on_gradient(self, parameter: Tensor) -> None:
        """A parameter's gradient is complete: it is no activation."""
        assert parameter.grad is not None
        key = id(parameter.grad.untyped_storage())
        size = self._sizes.get(key, 0)
        if size and key not in self._gradients:
            self._gradients.add(key)
            self._activations -= size
            self._of_gradients += size


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """The memory behind tensors, of which several may share one storage."""
    storages: dict[int, UntypedStorage] = {id(s): s for s in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in storages.values())
