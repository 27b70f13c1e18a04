"""An autoencoder is given as many pictures together as memory allows, whatever their size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difffit_core.data import latents
from difffit_core.data.latents import at_once, encode_pictures
from difffit_core.sampling.denoising import decode
from tests.tiny_models import tiny_autoencoder


@pytest.mark.parametrize(
    ("size", "count"), [((64, 64), 32), ((256, 256), 32), ((512, 512), 8), ((512, 1024), 4), ((4096, 4096), 1)]
)
def test_large_pictures_go_through_in_small_numbers(size: tuple[int, int], count: int) -> None:
    assert at_once(*size) == count


def test_portions_give_what_all_together_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for number, file in enumerate(files):
        Image.new("RGB", (16, 16), (40 * number, 90, 10)).save(file)
    vae, told, widths = tiny_autoencoder().eval(), list[tuple[int, int]](), list[int]()
    vae.encoder.register_forward_pre_hook(lambda _, given: widths.append(len(given[0])))
    vae.decoder.register_forward_pre_hook(lambda _, given: widths.append(len(given[0])))
    together = encode_pictures(files, vae, (16, 16), lambda done, of: told.append((done, of)))
    drawn = decode(vae, together["mean"][:, 0])
    assert (told, widths) == ([(5, 5)], [10, 5])
    monkeypatch.setattr(latents, "PIXELS_AT_ONCE", 4 * 16 * 16)
    apart = encode_pictures(files, vae, (16, 16), lambda done, of: told.append((done, of)))
    torch.testing.assert_close(apart, together)
    assert told[1:] == [(2, 5), (4, 5), (5, 5)]
    for one, other in zip(drawn, decode(vae, together["mean"][:, 0]), strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1
    assert widths[2:] == [4, 4, 2, 4, 1]
