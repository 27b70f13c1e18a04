"""Where an image is, and of what kind."""

from jobstore.kit import tables


def url_of(image: tables.Image) -> str:
    return f"/images/{image.id}"


def media_type_of(image: tables.Image) -> str:
    return "text/plain; charset=utf-8" if image.object_key.endswith(".txt") else "image/png"
