"""The benchmark of a training step takes every method in turn, and its figures fit what is trained."""

import torch

from benchmarks.train_step import METHODS, take_turns

CPU = torch.device("cpu")


def test_every_method_is_measured_on_one_model() -> None:
    rows, floor_seconds, matmul = take_turns("emoji-dit", batch=1, rounds=1, device=CPU)
    assert tuple(rows) == METHODS
    assert floor_seconds > 0
    assert matmul > 0
    for name, row in rows.items():
        assert row["optimizer_bytes"] == 2 * 4 * row["trained"], name  # two moments in fp32
        assert 0 < row["matmul_share"] < 1, name
    assert rows["full"]["ratio_to_full"] == 1
    assert rows["full"]["trained"] > 30 * max(row["trained"] for name, row in rows.items() if name != "full")
