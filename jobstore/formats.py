"""The names of the layouts that an upload may have; workers read them by `worker.layouts.registry`."""

from typing import Literal, get_args

Format = Literal[
    "folders",
    "metadata",
    "food-101",
    "sun397",
    "df20m",
    "caltech-101",
    "cub-200-2011",
    "artbench-10",
    "flowers-102",
    "stanford-cars",
    "coco-stuff",
    "captions",
    "pictures",
    "alpaca",
    "chat",
]
FORMATS: tuple[str, ...] = get_args(Format)
