"""Many adapters on one frozen base: every sample of a batch is served, or trained, with its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from difffit_core.adapters.bank.layers import BankedLayer, BankedLinear, BankedNorm, BankedTable, Batch, Values
from difffit_core.adapters.file import Adapter, check_base
from difffit_core.adapters.fitting import fit, meta_copy
from difffit_core.adapters.merging import at_strength, by_module, check_strength, check_untouched
from difffit_core.errors import AdapterError
from difffit_core.families.dit.network import class_embedder, class_rows, has_label_space, null_label, tie_conditioning
from difffit_core.methods.structure import is_norm

BANKABLE = frozenset({"difffit", "bitfit"})  # their adapters are vectors; LoRA's and full ones are matrices


@dataclass(frozen=True)
class Member:
    """One adapter of the bank: its tensors on the base's device, also by module, and its label space."""

    tensors: dict[str, nn.Parameter]
    by_module: dict[str, dict[str, Tensor]]
    strength: float
    class_names: list[str]


class AdapterBank:
    """The adapters on one frozen base, which stays as it is, bit for bit.

    Within `using`, a forward of the base gives every sample the output it would have with its adapter alone. An adapter
    is a set of per-channel vectors, so a layer holds `[adapters, C]` and broadcasts the samples' rows, `[B, 1, C]`: the
    matrices are multiplied once for the whole batch. The base must be on its device before the bank is made.
    """

    def __init__(self, model: nn.Module, base_sha256: str, base_names: Sequence[str] = ()) -> None:
        """`model` is an untouched base with the weights `base_sha256`, whose classes are `base_names`."""
        check_untouched(model)
        if isinstance(model, DiTTransformer2DModel):
            tie_conditioning(model)
        self.base_sha256, self.base_names = base_sha256, list(base_names)
        self._model = model.requires_grad_(False)
        self._blueprint = meta_copy(model)
        self._device = next(model.parameters()).device
        self._class_table = _path_of_class_table(model)
        self._members: dict[str, Member] = {}
        self._layers: dict[str, BankedLayer] = {}
        self._filled = True
        self._batch: Batch | None = None

    def add(self, name: str, adapter: Adapter, strength: float = 1.0, *, trainable: bool = False) -> None:
        """Take an adapter in under a name, frozen or to be trained in the bank.

        Raises SpecError for a strength outside [0, 2], AdapterError where the name is taken or the adapter is of another
        base, does not fit it, or is of a method whose adapters are not vectors.
        """
        if name in self._members:
            raise AdapterError(f"The bank has an adapter {name!r} already; remove it first.", code="name_taken", param=name)
        check_strength(strength)
        check_base(adapter.header, self.base_sha256)
        _check_bankable(adapter)
        fit(self._blueprint, adapter, self.base_names)
        tensors = {n: nn.Parameter(t.detach().to(self._device, copy=True), trainable) for n, t in adapter.tensors.items()}
        member = Member(tensors, by_module(tensors), strength, adapter.header.class_names)
        new = {path: self._model.get_submodule(path) for path in self._paths(member) - self._layers.keys()}
        kinds = {path: _layer_kind(path, module) for path, module in new.items()}
        self._layers |= {path: kinds[path](path, module, self._current) for path, module in new.items()}
        self._members[name] = member
        self._filled = False

    def remove(self, name: str) -> None:
        """Forget an adapter. A module that no other adapter touches runs as the base's own again."""
        self._member(name)
        del self._members[name]
        touched = {path for member in self._members.values() for path in self._paths(member)}
        for path in self._layers.keys() - touched:
            self._layers.pop(path).remove()
        self._filled = False

    @contextmanager
    def using(self, names: Sequence[str | None]) -> Iterator[None]:
        """Within it, sample `i` of every batch has the adapter `names[i]`; None is the plain base.

        A batch for classifier-free guidance needs each name twice: `[*names, *names]`. Gradients reach the `parameters`
        of trainable adapters, each from its own samples. Raises AdapterError for a name that the bank does not have.
        """
        rows: dict[str | None, int] = {None: 0} | {name: row for row, name in enumerate(self._members, start=1)}
        for name in {name for name in names if name is not None}:
            self._member(name)
        self._fill()
        before, self._batch = self._batch, Batch([rows[name] for name in names], self._device)
        try:
            yield
        finally:
            self._batch = before

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The tensors of one adapter, by the names of its file: what an optimiser trains."""
        return self._member(name).tensors

    def class_names(self, name: str | None) -> list[str]:
        """The label space of an adapter, or of the base."""
        return self.base_names if name is None else self._member(name).class_names

    def null_labels(self, names: Sequence[str | None]) -> Tensor:
        """`[B]`: the null class of each sample, the last row of its adapter's table."""
        own = null_label(self._blueprint) if isinstance(self._blueprint, DiTTransformer2DModel) else 0
        return torch.tensor([own if name is None else len(self.class_names(name)) for name in names], device=self._device)

    def _current(self) -> Batch | None:
        return self._batch

    def _member(self, name: str) -> Member:
        if name not in self._members:
            known = ", ".join(sorted(self._members)) or "none"
            raise AdapterError(f"The bank has no adapter {name!r}; it has {known}.", code="unknown_adapter", param=name)
        return self._members[name]

    def _paths(self, member: Member) -> set[str]:
        """The modules that an adapter touches; one with a label space of its own has a class table, trained or not."""
        paths = set(member.by_module)
        if self._class_table is not None and self._has_own_classes(member):
            paths.add(self._class_table)
        return paths

    def _has_own_classes(self, member: Member) -> bool:
        """Of a DiT's adapter: whether its class table is not the base's."""
        return not has_label_space(cast(DiTTransformer2DModel, self._blueprint), self.base_names, member.class_names)

    def _fill(self) -> None:
        """Build the layers' tables: where adapters have come or gone, and always for those that are being trained."""
        trained = any(p.requires_grad for member in self._members.values() for p in member.tensors.values())
        if self._filled and not trained:
            return
        # Tables made in inference mode could never serve in training.
        with torch.inference_mode(False), torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            for path, layer in self._layers.items():
                layer.fill([self._values(path, layer.module, member) for member in self._members.values()])
        self._filled = True

    def _values(self, path: str, module: nn.Module, member: Member) -> Values:
        trained = member.by_module.get(path, {})
        if path == self._class_table and self._has_own_classes(member):
            rows = {"weight": class_rows(cast(Tensor, module.weight), self.base_names, member.class_names)}
            return Values(None, rows | at_strength(rows, trained, member.strength)[1])
        return Values(*at_strength(module._parameters, trained, member.strength))


def _path_of_class_table(model: nn.Module) -> str | None:
    if not isinstance(model, DiTTransformer2DModel):
        return None
    table = class_embedder(model).embedding_table
    paths: dict[nn.Module, str] = {module: path for path, module in model.named_modules()}
    return paths[table]


def _check_bankable(adapter: Adapter) -> None:
    """Raise AdapterError (`not_bankable`) for a method whose adapters are not vectors."""
    if adapter.header.method.type not in BANKABLE:
        name = next(iter(adapter.tensors))
        raise AdapterError(
            f"An adapter of the method {adapter.header.method.type!r} cannot share a batch with others: its {name} is no "
            "vector of one module's channels. Use it alone, merged or unmerged.",
            code="not_bankable",
            param=name,
        )


def _layer_kind(path: str, module: nn.Module) -> type[BankedLayer]:
    """What stands in for a module; raises AdapterError (`not_bankable`) where nothing can."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        return BankedLinear
    if isinstance(module, nn.Embedding):
        return BankedTable
    if is_norm(module):
        return BankedNorm
    raise AdapterError(
        f"{path} is a {type(module).__name__}, whose parameters cannot differ between the samples of a batch.",
        code="not_bankable",
        param=path,
    )
