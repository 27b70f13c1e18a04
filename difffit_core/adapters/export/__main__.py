"""`python -m difffit_core.adapters.export FOLDER`: turn `adapter.safetensors` into the archive that `export.json` asks for."""

import argparse
import json
import sys
import zipfile
from pathlib import Path

from difffit_core.errors import DiffFitError
from difffit_core.runtime.parent import die_with_parent
from difffit_core.spec.catalog import BaseModelEntry

ENTRY_DATE = (1980, 1, 1, 0, 0, 0)  # of every file in the archive: equal exports are equal bytes


def main() -> int:
    """Write FOLDER/export.zip, or say in FOLDER/error.json why that cannot be; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help='with adapter.safetensors and export.json: {"format": …, "base": {…}}')
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started this one does")
    arguments = parser.parse_args()
    if arguments.die_with_parent:
        die_with_parent()
    folder: Path = arguments.folder
    try:
        export(folder)
    except DiffFitError as error:
        (folder / "error.json").write_text(json.dumps(error.reason()))
        return 1
    return 0


def export(folder: Path) -> None:
    """Raises what `export_merged` and `export_peft` raise."""
    from difffit_core.adapters.file import read_adapter

    asked = json.loads((folder / "export.json").read_text())
    base, adapter = BaseModelEntry.model_validate(asked["base"]), read_adapter(folder / "adapter.safetensors")
    # Only now, because these load all of diffusers, transformers and PEFT.
    from difffit_core.adapters.export.merged import export_merged
    from difffit_core.adapters.export.peft import export_peft

    {"merged": export_merged, "peft": export_peft}[asked["format"]](base, adapter, folder / "export")
    pack(folder / "export", folder / "export.zip")


def pack(folder: Path, archive: Path) -> None:
    """The files of a folder as a zip; weights do not compress, so nothing is compressed."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(folder)), ENTRY_DATE)
            entry.file_size = path.stat().st_size  # so that it can be larger than 4 GB
            with path.open("rb") as source, file.open(entry, "w") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)


if __name__ == "__main__":
    sys.exit(main())
