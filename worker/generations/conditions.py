"""The condition picture of a request, as its sender left it: decoded in a confined process, of which only pixels come here."""

import tempfile
from pathlib import Path

from PIL import Image

from difffit_core.errors import SpecError
from jobstore.kit.settings import get_settings
from worker.kit.image_pool import ImagePool, RefusedImage
from worker.kit.runtime import objects


def load_condition(key: str) -> Image.Image:
    """The picture; raises SpecError with the reason for which it cannot be used, and StorageError."""
    settings = get_settings()
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.work_dir) as name:
        path = Path(name) / "condition"
        objects().get_to_file(key, path)
        with ImagePool(path.parent, settings.max_image_pixels) as pool:
            picture = pool.decode(path)
    if isinstance(picture, RefusedImage):
        raise SpecError(picture.message, code=picture.code, param="condition_image")
    return picture
