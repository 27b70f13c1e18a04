"""Files that are no pictures and that users mean something by: what to say of them, by the end of their names."""

from pathlib import PurePosixPath

HINTS: dict[tuple[str, ...], str] = {
    (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".7z", ".rar"): (
        "An archive within the archive is not unpacked. Pack the files that are in it."
    ),
    (".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef"): (
        "Pictures of this format are not read. Export it as PNG or JPEG."
    ),
    (".txt", ".caption"): (
        "It is no picture. Texts are captions where at least half of the pictures have one of their name beside them and no "
        "list says otherwise, or where the format `captions` is asked for."
    ),
    (".json", ".jsonl", ".csv", ".tsv", ".xml", ".parquet"): (
        "It is no picture, and no list that is read: what is said of pictures belongs in a metadata.jsonl, .csv or .tsv."
    ),
}


def hint(name: str) -> str | None:
    """What to do with a file that is no picture, where its name tells."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((message for suffixes, message in HINTS.items() if suffix in suffixes), None)
