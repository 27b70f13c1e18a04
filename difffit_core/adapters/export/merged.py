"""A whole model folder with an adapter merged into it, which `from_pretrained` of stock diffusers or transformers loads."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel

from difffit_core.adapters.export.frames import write_frame
from difffit_core.adapters.export.networks import allow_biases, check_stock
from difffit_core.adapters.export.readme import STOCK_CLASSES, merged_readme
from difffit_core.adapters.file import Adapter, check_base
from difffit_core.adapters.merging import merge
from difffit_core.adapters.subject import network_part, text_encoder_with
from difffit_core.families.dit.network import class_embedder, set_class_table, untie_conditioning
from difffit_core.families.networks import load_network
from difffit_core.spec.catalog import WEIGHTS_FOLDER, BaseModelEntry


def export_merged(base: BaseModelEntry, adapter: Adapter, folder: Path, strength: float = 1.0) -> None:
    """Write the base with the adapter merged at `strength` into the new folder; all other parts are the base's.

    Raises AdapterError where the adapter is of another base, cannot be merged, or makes a model that no stock config
    describes; SpecError for a strength outside [0, 2]; ModelError where the base cannot be read.
    """
    check_base(adapter.header, base.sha256())
    task = adapter.header.task.type
    model = load_network(base, task)
    merge(model, network_part(adapter), strength, base_names=base.class_names())
    if isinstance(model, DiTTransformer2DModel):
        pad_class_table(model)
        untie_conditioning(model)
    allow_biases(model)
    check_stock(model)
    parts = {"controlnet" if task == "controlnet" else WEIGHTS_FOLDER[base.family]: model}
    if task == "dreambooth":
        text = text_encoder_with(adapter, base.path, torch.device("cpu"), strength)
        parts |= {"text_encoder": text.encoder, "tokenizer": text.tokenizer}
    replaced = {base.path / name for name in parts}
    shutil.copytree(base.path, folder, ignore=lambda at, names: _weights(names) if Path(at) in replaced else [])
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    if isinstance(model, DiTTransformer2DModel):
        write_labels(folder / "model_index.json", adapter.header.class_names)
    write_frame(base, adapter, folder)
    (folder / "README.md").write_text(merged_readme(base, adapter))


def _weights(names: list[str]) -> list[str]:
    """The files that a merged network's own replace."""
    return [name for name in names if name.endswith((".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json"))]


def pad_class_table(model: DiTTransformer2DModel) -> None:
    """Repeat the null class up to the row that the stock pipeline takes for it, so that guidance works there too."""
    table = class_embedder(model).embedding_table.weight.detach()  # [classes + 1, D]
    missing = STOCK_CLASSES + 1 - len(table)
    if missing > 0:
        set_class_table(model, torch.cat([table, table[-1:].expand(missing, -1)]))


def write_labels(index: Path, class_names: list[str]) -> None:
    """Put the label space into a pipeline's `model_index.json`."""
    content = json.loads(index.read_text())
    content["id2label"] = {str(i): name for i, name in enumerate(class_names)}
    index.write_text(json.dumps(content, indent=2))
