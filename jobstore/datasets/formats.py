"""The names of the layouts that an upload may have; workers read them by `worker.datasets.layouts.registry`."""

from typing import Literal, get_args

Format = Literal[
    "folders",  # class folders
    "metadata",  # metadata.jsonl, metadata.csv or metadata.tsv: labels, texts, condition pictures
    "food-101",
    "sun397",
    "df20m",
    "caltech-101",
    "cub-200-2011",
    "artbench-10",
    "flowers-102",
    "stanford-cars",
    "coco-stuff",  # photographs with label maps and captions
    "captions",  # a .txt or .caption beside each picture
    "pictures",  # and nothing else
    "alpaca",  # instructions with answers
    "chat",  # conversations
    "completions",  # prompts with completions, or texts, without a frame
]
FORMATS: tuple[str, ...] = get_args(Format)
