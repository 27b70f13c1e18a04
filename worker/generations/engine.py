"""Makes images and texts, and keeps the last used models in memory."""

import gc
import io
import json
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo
from sqlalchemy.exc import SQLAlchemyError

from difffit_core.errors import DiffFitError
from difffit_core.spec.catalog import get_base_model, load_catalog
from difffit_core.spec.generation import GenerationSpec, TextGenerationSpec
from jobstore.generations.text_stream import TextWriter
from jobstore.kit.errors import NotFoundError, StorageError
from jobstore.kit.ids import new_id
from jobstore.kit.settings import get_settings
from jobstore.kit.tables import Adapter, Generation, Image
from worker.generations.conditions import load_condition
from worker.kit.kept_models import Kept
from worker.kit.lease import Lease, LeaseLost, Stopping
from worker.kit.leased_work import finish, work_on
from worker.kit.outages import persist
from worker.kit.runtime import objects, sessions

if TYPE_CHECKING:
    from difffit_core.adapters.file import Adapter as LoadedAdapter
    from difffit_core.sampling.generator import Generator

logger = logging.getLogger(__name__)

Picture = tuple[PillowImage.Image, dict[str, Any]]  # with its parameters

KEPT_SHARE = 0.5  # of the device that bases may take, and of the machine that adapters may: work takes the rest, training too
PNG_KEY = "difffit"  # of the text chunk that says how an image was made


@dataclass(frozen=True)
class Results:
    """What a request asked for: images with their parameters, or texts."""

    pictures: list[Picture] = field(default_factory=list)
    texts: list[dict[str, Any]] | None = None


class Engine:
    """The last used bases and adapters, kept in memory: a base takes one adapter after the other."""

    def __init__(self) -> None:
        self._bases: Kept[Generator] = Kept(_load_base, _room_for_bases, lambda base: base.nbytes())
        self._adapters: Kept[LoadedAdapter] = Kept(_load_adapter, _room_for_adapters, lambda adapter: adapter.nbytes())

    def run(self, generation_id: str) -> None:
        """Claim the request and bring it to `succeeded` or `failed`; does nothing where another worker has it."""
        work_on(Generation, generation_id, self._bring_to_end)

    def make_room(self) -> bool:
        """Give the memory of all models back, for somebody else on the device; whether there were any."""
        held = bool(self._bases)
        self._bases.clear()
        self._adapters.clear()
        if held:
            _give_back()
        return held

    def _bring_to_end(self, generation: Generation, lease: Lease) -> None:
        try:
            results = self._make(generation)
            images = [_image(generation, lease, *picture) for picture in enumerate(results.pictures)]
        except (LeaseLost, Stopping):
            raise
        except (StorageError, SQLAlchemyError):
            raise  # they may come back: the lease expires and the request is tried again
        except DiffFitError as error:
            finish(lease, "failed", error=error.reason())
        except Exception as error:  # torch raises many kinds
            logger.exception("The request %s failed", generation.id)
            finish(lease, "failed", error=_reason(error))
        else:
            finish(lease, "succeeded", images, texts=results.texts)

    def _make(self, generation: Generation) -> Results:
        """What was asked for. Where memory runs out it is tried once more, with no other model in it."""
        try:
            return self._try(generation)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            logger.warning("Memory ran out at %s: other models go, and it is tried once more", generation.id)
        self.make_room()  # here, where the error no longer holds on to what it interrupted
        return self._try(generation)

    def _try(self, generation: Generation) -> Results:
        """Each image with its parameters, which are all it takes to make it again; or the texts."""
        parameters = generation.parameters
        kind = TextGenerationSpec if "max_tokens" in parameters else GenerationSpec
        spec = kind.model_validate(parameters)
        model, adapter_id = self._bases.get(generation.base_model), generation.adapter_id
        model.use(None if adapter_id is None else self._adapters.get(adapter_id), spec.adapter_strength)
        self._adapters.shrink()
        if self._bases.shrink():
            _give_back()
        if isinstance(spec, TextGenerationSpec):
            return Results(texts=_texts(model, generation.id, spec))
        condition = None if generation.condition_key is None else load_condition(generation.condition_key)
        pictures = model.images(spec, condition)
        common: dict[str, Any] = {"adapter": adapter_id, "base_model": generation.base_model}
        common |= spec.model_dump(mode="json", exclude={"labels", "prompts"} | ({"negative_prompt"} if spec.labels else set()))
        names = [model.class_names[label] for label in spec.labels] or spec.prompts
        named = [
            common | {"label": name, "seed": spec.seed + position, "width": picture.width, "height": picture.height}
            for position, (name, picture) in enumerate(zip(names, pictures, strict=True))
        ]
        return Results(pictures=list(zip(pictures, named, strict=True)))


def _texts(model: "Generator", generation_id: str, spec: TextGenerationSpec) -> list[dict[str, Any]]:
    """The answers, which those who watch the generation see grow."""
    writer = TextWriter(get_settings().redis_url.get_secret_value(), generation_id)
    texts = []
    for number, (messages, answer) in enumerate(zip(spec.conversations, model.texts(spec, writer.write), strict=True)):
        reason = "stop" if answer.finished else "length"
        text = {"prompt": messages[-1]["content"], "text": answer.text, "seed": spec.seed + number}
        texts.append(text | {"tokens": answer.tokens, "finish_reason": reason})
    return texts


def _is_out_of_memory(error: Exception) -> bool:
    from difffit_core.runtime.devices import is_out_of_memory  # here, because workers that never generate should not load torch

    return is_out_of_memory(error)


def _reason(error: Exception) -> dict[str, Any]:
    """Of a failure that is not the request's fault, as its row tells it."""
    if _is_out_of_memory(error):
        message = (
            "This takes more memory than the worker's device has to spare now. Ask for fewer or smaller pictures, for a "
            "shorter answer, or again later."
        )
        return {"code": "out_of_memory", "message": message, "param": None}
    message = f"The request could not be fulfilled ({type(error).__name__}); the worker's log says more."
    return {"code": "generation_failed", "message": message, "param": None}


def _give_back() -> None:
    """Give the memory of models that are let go back to the device."""
    import torch

    gc.collect()  # their modules refer to each other in circles
    torch.cuda.empty_cache()


def _room_for_bases() -> int:
    from difffit_core.runtime.devices import pick_device, total_memory

    return int(KEPT_SHARE * total_memory(pick_device(get_settings().device)))


def _room_for_adapters() -> int:
    from difffit_core.runtime.devices import pick_device, total_memory

    return int(KEPT_SHARE * total_memory(pick_device("cpu")))


def _load_base(base_model: str) -> "Generator":
    from difffit_core.sampling.registry import load_generator

    settings = get_settings()
    return load_generator(get_base_model(load_catalog(settings.models, settings.models_dir), base_model), settings.device)


def _load_adapter(adapter_id: str) -> "LoadedAdapter":
    from difffit_core.adapters.file import read_adapter

    settings = get_settings()
    with sessions()() as session:
        adapter = session.get(Adapter, adapter_id)
    if adapter is None:
        raise NotFoundError(f"There is no adapter {adapter_id!r} any more.", param="adapter")
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.work_dir) as folder:
        path = Path(folder) / "adapter.safetensors"
        objects().get_to_file(adapter.object_key, path)
        return read_adapter(path)


def _image(generation: Generation, lease: Lease, position: int, made: Picture) -> Image:
    """Store a picture; its row, which is not yet written."""
    picture, parameters = made
    row = Image(id=new_id("img"), tenant_id=generation.tenant_id, generation_id=generation.id, position=position)
    row.object_key, row.width, row.height = f"images/{row.id}.png", picture.width, picture.height
    row.details = {"label": parameters["label"], "seed": parameters["seed"]}
    data = png(picture, parameters)
    row.bytes = len(data)
    persist(lease, lambda: objects().put_bytes(row.object_key, data))
    return row


def png(picture: PillowImage.Image, parameters: dict[str, Any]) -> bytes:
    """The picture as PNG, with its parameters in a text chunk; equal input gives equal bytes."""
    text = PngInfo()
    text.add_text(PNG_KEY, json.dumps(parameters, sort_keys=True))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()
