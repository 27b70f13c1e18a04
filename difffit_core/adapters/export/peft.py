"""A PEFT folder that does what an adapter does: `PeftModel.from_pretrained` loads it onto the stock base, with no code of ours.

γ on a layer is a DoRA without a low-rank part: DoRA replaces `W` by `m W / ‖W‖`, row by row, so that `m = γ ‖W‖` gives
`γ W`. It does not multiply the bias, so `γ b` is stored. Norms and whole layers are saved as modules, and a new label space
as trained rows of the base's class table.

Of a bias that the base does not have, PEFT would leave out the value and say nothing. Such biases go into a second adapter,
each as the bias of a LoRA whose matrices are zero; the folder then has no adapter at its root that could be loaded alone.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, StableDiffusionPipeline
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from difffit_core.adapters.export.frames import write_frame
from difffit_core.adapters.export.networks import check_stock, take_new_biases
from difffit_core.adapters.export.readme import BIASES, LEARNED_EMBEDS, SCALES, TRAINED_ENCODER, loads_as_lora, peft_readme
from difffit_core.adapters.file import Adapter, check_base
from difffit_core.adapters.fitting import fit, give_label_space
from difffit_core.adapters.merging import at_strength, by_module, lora_layers, rows_scaled
from difffit_core.adapters.subject import SUBJECT, add_subject, network_part, text_encoder_part
from difffit_core.errors import AdapterError
from difffit_core.families.dit.network import class_embedder, set_class_table, untie_conditioning
from difffit_core.families.networks import load_network
from difffit_core.families.text_encoders import load_text_encoder
from difffit_core.methods.lora.config import LoRAConfig
from difffit_core.spec.catalog import BaseModelEntry, Source
from difffit_core.tasks.config import DreamBoothConfig

EXPORTABLE = frozenset({"difffit", "bitfit", "lora"})
CLASS_TABLE = "class_embedder.embedding_table"  # the end of its path in every block of the stock model
NAME = "default"  # PEFT's, of an adapter


@torch.no_grad()
def export_peft(base: BaseModelEntry, adapter: Adapter, folder: Path) -> None:
    """Write the PEFT folder, with a README that says how to load it.

    Raises AdapterError where the adapter is of another base, or is something that PEFT cannot hold; ModelError where the
    base cannot be read.
    """
    header = adapter.header
    check_base(header, base.sha256())
    if header.method.type not in EXPORTABLE:
        raise AdapterError(
            f"PEFT has no form for an adapter of the method {header.method.type!r}; download it as format=difffit.",
            code="not_exportable",
            param=next(iter(adapter.tensors)),
        )
    model = load_network(base, header.task.type)
    wrapped = write_peft(model, network_part(adapter), base, folder)
    encoder = write_subject(base, adapter, folder) if header.task.type == "dreambooth" else None
    if loads_as_lora(base, adapter):
        write_diffusers_lora(wrapped, encoder, folder)
    write_frame(base, adapter, folder)
    (folder / "README.md").write_text(peft_readme(base, adapter, BIASES in wrapped.peft_config))


def write_peft(model: Any, adapter: Adapter, base: BaseModelEntry, folder: Path) -> PeftModel:
    """Write the PEFT folder of one model, an untouched part of the base, which is changed. Returns it as PEFT has it."""
    base_names = base.class_names()
    skeleton = fit(model, adapter, base_names)
    # PEFT saves biases, modules and rows as it finds them in the model: so the trained ones are put there first.
    base_rows = class_embedder(model).embedding_table.weight if isinstance(model, DiTTransformer2DModel) else None
    give_label_space(model, adapter, base_names)
    paths = _paths(model)
    scales, whole = _put_values(model, adapter.tensors, paths)
    rows = None if base_rows is None else _put_rows(model, base_rows)
    biases = take_new_biases(model)
    check_stock(model)
    trained_lora = lora_layers(skeleton, adapter.tensors)
    lora = {alias: layer for path, layer in trained_lora.items() for alias in paths[model.get_submodule(path)]}
    config = _config(adapter, model, scales, lora, whole, rows)
    if isinstance(model, DiTTransformer2DModel):
        untie_conditioning(model)
    name = SCALES if biases else NAME
    wrapped = get_peft_model(model, config, adapter_name=name)
    for path, scale in scales.items():
        magnitude = model.get_submodule(path).lora_magnitude_vector[name].weight  # ‖W‖, as PEFT computes it
        magnitude.mul_(scale.view(magnitude.shape))
    for path, trained in lora.items():
        layer = model.get_submodule(path)
        layer.lora_A[name].weight.copy_(trained.lora_A[NAME].weight)
        layer.lora_B[name].weight.copy_(trained.lora_B[NAME].weight)
    if biases:
        _add_biases(wrapped, biases, whole)
    for settings in wrapped.peft_config.values():  # PEFT has put the folder there that this machine has
        settings.base_model_name_or_path, settings.revision = origin(base)
    # Any but the default adapter has a folder of its name. Left to judge for itself, PEFT asks the Hub for a vocabulary.
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return wrapped


def origin(base: BaseModelEntry) -> tuple[str, str | None]:
    """The Hub id of a base and its revision, or the catalog's name of one that is on no Hub."""
    for source in base.sources:
        if isinstance(source, Source) and source.folder == Path():
            return source.hub, source.revision
    return base.id, None


def write_subject(base: BaseModelEntry, adapter: Adapter, folder: Path) -> PeftModel | None:
    """Write a DreamBooth adapter's word as diffusers' `load_textual_inversion` takes it, and what it trained in the encoder.

    Returns the encoder as PEFT has it where there is any of that.
    """
    text = load_text_encoder(base.path, torch.device("cpu"))
    trained, wrapped = text_encoder_part(adapter, text.encoder), None
    if trained is not None:
        wrapped = write_peft(text.encoder, trained, base, folder / TRAINED_ENCODER)
        text = load_text_encoder(base.path, torch.device("cpu"))
    add_subject(text.tokenizer, text.encoder, adapter)  # which checks it
    assert isinstance(adapter.header.task, DreamBoothConfig)
    save_file({adapter.header.task.identifier: adapter.tensors[SUBJECT][None]}, folder / LEARNED_EMBEDS)
    return wrapped


def write_diffusers_lora(unet: PeftModel, encoder: PeftModel | None, folder: Path) -> None:
    """Write the matrices once more, as diffusers' `load_lora_weights` takes them from the folder."""
    parts = {"unet": unet} if encoder is None else {"unet": unet, "text_encoder": encoder}
    layers: dict[str, Any] = {}
    for name, model in parts.items():
        tensors = get_peft_model_state_dict(model)
        layers[f"{name}_lora_layers"] = {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
        layers[f"{name}_lora_adapter_metadata"] = model.peft_config[NAME].to_dict()
    StableDiffusionPipeline.save_lora_weights(folder, **layers)


def _paths(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All paths of each module: of one that is tied here, the stock model has a copy at each."""
    paths = defaultdict(list)
    for path, module in model.named_modules(remove_duplicate=False):
        paths[module].append(path)
    return paths


def _put_values(
    model: nn.Module, tensors: Mapping[str, Tensor], paths: Mapping[nn.Module, list[str]]
) -> tuple[dict[str, Tensor], list[str]]:
    """Put the trained values of all but the scaled weights into the model.

    Returns the scale factors by the path of their layer, and the paths of the modules that PEFT has to save whole.
    """
    scales: dict[str, Tensor] = {}
    whole: list[str] = []
    for path, trained in by_module(tensors).items():
        module = model.get_submodule(path)
        scale, values = at_strength(module._parameters, trained, 1.0)
        if isinstance(module, nn.Linear | nn.Conv2d):
            if scale is not None:
                bias = values.get("bias", module.bias)
                values |= {} if bias is None else {"bias": scale * bias}
                if (row_norms(module.weight) > 0).all():
                    scales |= dict.fromkeys(paths[module], scale)
                else:  # DoRA divides by the norm of each row
                    values["weight"] = rows_scaled(values.get("weight", module.weight), scale)
            if "weight" in values:
                whole += paths[module]
        elif not path.endswith(CLASS_TABLE):
            whole += paths[module]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value.to(module.get_parameter("weight").dtype), requires_grad=False))
    return scales, whole


def row_norms(weight: Tensor) -> Tensor:
    """`[C]` of a weight `[C, ...]`."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1, dtype=torch.float32)
    return norms


def _put_rows(model: DiTTransformer2DModel, base_rows: Tensor) -> list[int]:
    """Write the model's classes over the first rows of the base's table and its null class over the last; return which."""
    table = class_embedder(model).embedding_table.weight
    if len(table) > len(base_rows):
        raise AdapterError(
            f"The adapter has {len(table) - 1} classes and its base only {len(base_rows) - 1}: PEFT cannot make a table "
            "longer. Download the adapter as format=merged.",
            code="not_exportable",
            param="class_names",
        )
    rows = [*range(len(table) - 1), len(base_rows) - 1]
    set_class_table(model, base_rows.index_copy(0, torch.tensor(rows), table))
    return rows


def _config(
    adapter: Adapter,
    model: nn.Module,
    scales: Mapping[str, Tensor],
    lora: Mapping[str, Any],
    whole: list[str],
    rows: list[int] | None,
) -> LoraConfig:
    method, table = adapter.header.method, None if rows is None else {CLASS_TABLE: rows}
    common: dict[str, Any] = {"modules_to_save": whole or None, "trainable_token_indices": table}
    if isinstance(method, LoRAConfig):
        common["lora_alpha"] = method.rank if method.alpha == "auto" else method.alpha
        config = LoraConfig(r=method.rank, target_modules=list(lora), **common)
    else:
        targets = list(scales) or [_any_layer(model, whole)]
        config = LoraConfig(r=1, use_dora=True, bias="all", target_modules=targets, **common)
    return config


def _add_biases(wrapped: PeftModel, biases: Mapping[str, Tensor], whole: list[str]) -> None:
    """Add the adapter of new biases, `[C]` by their layer's path."""
    if held := sorted(biases.keys() & set(whole)):
        raise AdapterError(
            f"PEFT saves the layer {held[0]} whole, which has no bias in the base, so that the trained one has no place. "
            "Download the adapter as format=difffit.",
            code="not_exportable",
            param=held[0],
        )
    wrapped.add_adapter(BIASES, LoraConfig(r=1, lora_alpha=1, lora_bias=True, target_modules=list(biases)))
    for path, bias in biases.items():
        layer: Any = wrapped.get_base_model().get_submodule(path)
        layer.lora_A[BIASES].weight.zero_()
        layer.lora_B[BIASES].bias.copy_(bias)


def _any_layer(model: nn.Module, whole: list[str]) -> str:
    """A Linear for PEFT to act on where nothing is scaled: with γ = 1 it does what it did."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for path, module in modules.items():
        if isinstance(module, nn.Linear) and path not in whole and (row_norms(module.weight) > 0).all():
            return path
    raise AdapterError("The model has no Linear that PEFT could act on.", code="not_exportable")
