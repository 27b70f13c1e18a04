"""The condition picture of a request, as its sender left it: decoded in a confined process before it is in this one."""

import tempfile
from pathlib import Path

from PIL import Image

from difffit_core.errors import SpecError
from jobstore.settings import get_settings
from worker.image_pool import ImagePool, RefusedImage, Request
from worker.runtime import objects


def load_condition(key: str) -> Image.Image:
    """The picture; raises SpecError with the reason for which it cannot be used, and StorageError."""
    settings = get_settings()
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.work_dir) as folder, ImagePool(settings.max_image_pixels) as pool:
        path = Path(folder) / "condition"
        objects().get_to_file(key, path)
        (answer,) = pool.check([Request(path)])
        if isinstance(answer, RefusedImage):
            raise SpecError(answer.message, code=answer.code, param="condition_image")
        with Image.open(path) as picture:
            picture.load()
            return picture
