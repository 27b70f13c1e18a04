"""What a model is made of, found by the types of its modules and the parts they have, never by names of parameters."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from difffit_core.errors import SpecError

Found = TypeVar("Found", bound=nn.Module)

WITH_BIAS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TOKEN_NORMS = (nn.LayerNorm, nn.RMSNorm)
OTHER_NORMS = (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# The Linears of an attention, its output last: diffusers, Llama and its kin, CLIP, T5, BERT, and DiT's own code.
ATTENTION_PARTS = (
    ("to_q", "to_k", "to_v", "to_out.0"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q", "k", "v", "o"),
    ("self.query", "self.key", "self.value", "output.dense"),
    ("qkv", "proj"),
)
MLP_ENDS = ("down_proj", "fc2", "wo")  # the last Linear of an MLP: Llama's, CLIP's and DiT's own code's, T5's


def join(path: str, part: str) -> str:
    return f"{path}.{part}" if path else part


def has_own_bias(module: nn.Module) -> bool:
    """Whether a module is one of those whose bias counts as one; GPT-2's Conv1D is a Linear of its own."""
    return isinstance(module, WITH_BIAS) or type(module).__name__ == "Conv1D"


def is_token_norm(module: nn.Module) -> bool:
    """Whether a norm works over a token's channels; libraries have some of their own, which are known by their class.

    Those are leaves: an adaptive norm, which holds Linears, is none.
    """
    return isinstance(module, TOKEN_NORMS) or (not module._modules and type(module).__name__.endswith(("RMSNorm", "LayerNorm")))


def is_norm(module: nn.Module) -> bool:
    return is_token_norm(module) or isinstance(module, OTHER_NORMS)


def parts_of_type(module: nn.Module, kind: type[Found], parts: Sequence[str]) -> list[Found] | None:
    """The submodules at the paths `parts` where all of them are there and of that type."""
    found = []
    for part in parts:
        child: nn.Module | None = module
        for name in part.split("."):
            child = child._modules.get(name) if child is not None else None
        if not isinstance(child, kind):
            return None
        found.append(child)
    return found


def attentions(model: nn.Module) -> Iterator[list[str]]:
    """The paths of the Linears of each attention, its output last."""
    for path, module in model.named_modules():
        for parts in ATTENTION_PARTS:
            if parts_of_type(module, nn.Linear, parts) is not None:
                yield [join(path, part) for part in parts]
                break


def mlps(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The path of each MLP, and of the Linear that ends it."""
    for path, module in model.named_modules():
        net = module._modules.get("net")
        if isinstance(net, nn.ModuleList | nn.Sequential):  # diffusers' FeedForward
            linears = [name for name, child in net.named_children() if isinstance(child, nn.Linear)]
            if linears:
                yield path, join(path, f"net.{linears[-1]}")
            continue
        for part in MLP_ENDS:
            if parts_of_type(module, nn.Linear, [part]) is not None:
                yield path, join(path, part)
                break


def branch_ends(model: nn.Module) -> Iterator[str]:
    """The path of the layer that ends each residual branch: an attention, an MLP, or a UNet's whole spatial transformer."""
    for linears in attentions(model):
        yield linears[-1]
    for _, end in mlps(model):
        yield end
    for path, module in model.named_modules():
        holds_blocks = isinstance(module._modules.get("transformer_blocks"), nn.ModuleList)
        if path and holds_blocks and isinstance(module._modules.get("proj_out"), nn.Linear | nn.Conv2d):
            yield join(path, "proj_out")


def blocks(model: nn.Module) -> list[str]:
    """The paths of a model's blocks in the order they run.

    They are the levels of a UNet; of any other model, the longest list of modules of one type that hold Linears or
    convolutions, with such lists beside it. Empty where a model has no such list.
    """
    for path, module in model.named_modules():
        if {"down_blocks", "mid_block"} <= module._modules.keys():
            levels = {name: module._modules.get(name) for name in ("down_blocks", "mid_block", "up_blocks")}
            return [
                join(path, name if name == "mid_block" else f"{name}.{index}")
                for name, level in levels.items()
                if level is not None
                for index in range(1 if name == "mid_block" else len(level))
            ]
    lists = {
        path: len(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len({type(entry) for entry in module}) == 1
        and any(has_own_bias(part) for part in module[0].modules())
    }
    if not lists:
        return []
    parent = max(lists, key=lists.__getitem__).rpartition(".")[0]
    return [f"{path}.{index}" for path, length in lists.items() if path.rpartition(".")[0] == parent for index in range(length)]


def class_tables(model: nn.Module) -> list[nn.Embedding]:
    """The embeddings of class labels: the table of each LabelEmbedding of a DiT, or a UNet's `class_embedding`."""
    parts = [module._modules.get(name) for module in model.modules() for name in ("embedding_table", "class_embedding")]
    return list(dict.fromkeys(part for part in parts if isinstance(part, nn.Embedding)))


def find(model: nn.Module, name: str, param: str, among: tuple[type[nn.Module], ...] = (nn.Module,)) -> list[str]:
    """The paths of the modules that `name` names, by the whole path or the end of one.

    Raises SpecError for the field `param` where there is none, with near names, or where one is not of a type of `among`.
    """
    paths = {path: module for path, module in model.named_modules() if path == name or path.endswith(f".{name}")}
    if not paths:
        ends = {".".join(path.split(".")[-2:]) for path, module in model.named_modules() if isinstance(module, among)}
        near = difflib.get_close_matches(name, sorted(ends), cutoff=0.4)
        hint = f" Near it: {', '.join(near)}." if near else ""
        raise SpecError(f"{type(model).__name__} has no module {name!r}.{hint}", code="unknown_module", param=param)
    for path, module in paths.items():
        if not isinstance(module, among):
            wanted = " or ".join(kind.__name__ for kind in among)
            raise SpecError(f"{path} is a {type(module).__name__}, not a {wanted}.", code="unknown_module", param=param)
    return list(paths)


def replace_modules(model: nn.Module, replacements: Mapping[Any, nn.Module]) -> None:
    """Put new modules in the places of old ones, in every place where one is used."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in replacements:
                parent._modules[name] = replacements[child]
