"""What all generators share: a base, loaded once, and the adapter in use, merged into its weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import Image
from torch import nn

from difffit_core.adapters.file import Adapter, check_base
from difffit_core.adapters.fitting import inject
from difffit_core.adapters.merging import MERGEABLE, Merge, merge
from difffit_core.adapters.subject import network_part
from difffit_core.data.buckets import Size, bucket_sizes, nearest_size
from difffit_core.data.pictures import upright_size
from difffit_core.errors import SpecError
from difffit_core.families.networks import load_network
from difffit_core.runtime.devices import pick_device
from difffit_core.runtime.live_bytes import storage_bytes
from difffit_core.sampling.picture_size import check_size
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec, TextGenerationSpec


class Text(NamedTuple):
    """An answer, of so many tokens; `finished` unless it was cut off."""

    text: str
    tokens: int
    finished: bool


OnText = Callable[[int, str], None]  # (which prompt, what was added to its answer)


class Generator:
    """A base and the adapter in use. The same spec gives the same pictures or texts.

    `network` is what the adapter is put into.
    """

    network: Any
    most_at_once: int  # pictures of the base's own size that are denoised together, each twice where there is guidance

    def __init__(self, base: BaseModelEntry, device: str = "auto") -> None:
        """Load from disk. Raises ModelError where a file is missing or damaged, SpecError for a device that is not there."""
        self.base = base
        self.device = pick_device(device)
        self.class_names = base.class_names()  # of what is in use; empty unless it draws classes
        self._adapter: Adapter | None = None
        self._merge: Merge | None = None
        self._strength = 1.0
        self.network = self.load_network()

    def load_network(self) -> Any:
        return load_network(self.base, self.base.tasks[0]).to(self.device)

    def use(self, adapter: Adapter | None, strength: float = 1.0) -> None:
        """Generate with this adapter from now on, or with the base alone.

        Raises AdapterError where it does not fit, or cannot be merged and `strength` is not 1; then the base alone is left.
        """
        if adapter is self._adapter and strength == self._strength:
            return
        self.remove()
        if adapter is None:
            return
        check_base(adapter.header, self.base.sha256())
        try:
            self.put(adapter, strength)
        except BaseException:
            self.remove()
            raise
        self._adapter, self._strength = adapter, strength

    def put(self, adapter: Adapter, strength: float) -> None:
        """Put an adapter in where there is none."""
        own = network_part(adapter)
        if adapter.header.method.type in MERGEABLE or strength != 1:
            self._merge = merge(self.network, own, strength, base_names=self.class_names)
        else:
            inject(self.network, own, self.class_names)
            self.network.eval().to(self.device)

    def remove(self) -> None:
        """Leave the base alone, bit for bit."""
        if self._merge is not None:
            self._merge.unmerge()
        elif self._adapter is not None:  # one that cannot be merged goes with the model it is in
            self.network = self.load_network()
        self._adapter = self._merge = None

    def modules(self) -> list[nn.Module]:
        """All networks that are in memory."""
        return [self.network]

    def nbytes(self) -> int:
        """The memory that the base takes, with the adapter in use and what that has replaced."""
        held = [tensor for module in self.modules() for tensor in (*module.parameters(), *module.buffers())]
        return storage_bytes(held if self._merge is None else [*held, *self._merge.replaced])

    def resolution(self) -> int:
        """Side of the square pictures that the adapter in use was trained on, or the base."""
        trained = None if self._adapter is None else self._adapter.header.resolution
        resolution = self.base.image_size() if trained is None else trained
        assert resolution is not None  # only language models have none
        return resolution

    def size(self, spec: GenerationSpec, condition: Image.Image | None = None) -> Size:
        """Width and height of the pictures of `spec`: as it says, or as the condition picture's ratio is, or square.

        Raises SpecError (`wrong_size`).
        """
        resolution = self.resolution()
        if spec.width is not None and spec.height is not None:
            check_size((spec.width, spec.height), resolution, self.base)
            return spec.width, spec.height
        if condition is None:
            return resolution, resolution
        return nearest_size(upright_size(condition), bucket_sizes(resolution, self.base.pixels_per_token()))

    def at_once(self, size: Size) -> int:
        """How many pictures of this size are denoised together: the memory of that does not grow with the size."""
        own = self.base.image_size()
        assert own is not None  # only language models have none
        return max(1, self.most_at_once * own**2 // (size[0] * size[1]))

    def images(self, spec: GenerationSpec, condition: Image.Image | None = None) -> list[Image.Image]:
        """One RGB picture for each label or prompt of `spec`, which also says how strong the adapter in use is.

        `condition` is the picture that a ControlNet draws after. Raises SpecError that names the field for what this
        generator does not take or lacks, and AdapterError as `use` does.
        """
        raise self.not_made("pictures", "labels" if spec.labels else "prompts")

    def texts(self, spec: TextGenerationSpec, on_text: OnText | None = None) -> list[Text]:
        """An answer to each prompt of `spec`; `on_text` hears of it as it grows. Raises as `images` does."""
        raise self.not_made("texts", "prompts")

    def not_made(self, what: str, param: str) -> SpecError:
        return SpecError(f"{self.base.id} makes no {what}.", code="not_for_this_model", param=param)

    def takes_no_condition(self) -> SpecError:
        return SpecError(
            f"Only a ControlNet draws after a condition picture, and {self.base.id} is used without one.",
            code="not_for_this_model",
            param="condition_image",
        )
