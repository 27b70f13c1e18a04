"""What a worker that generates keeps in memory, and what it does where memory runs out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import worker.generations.engine
from jobstore.kit.ids import new_id
from jobstore.kit.settings import Settings, get_settings
from jobstore.kit.tables import Generation
from tests.worker.conftest import Rows
from worker.generations.engine import Engine
from worker.kit.kept_models import Kept

CLASSES, PROMPTS = {"labels": [0]}, {"prompts": ["a cat"]}
Ask = Callable[..., str]


@pytest.fixture
def ask(rows: Rows, fast_settings: Settings, tiny_catalog: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Adds a request for a picture of a tiny base."""
    monkeypatch.setenv("DIFFFIT_MODELS", str(tiny_catalog))
    get_settings.cache_clear()

    def add(task: str, told: dict[str, Any]) -> str:
        row = Generation(id=new_id("gen"), tenant_id=rows.tenant.id, base_model=f"tiny-{task}", status="queued")
        row.parameters = {"steps": 1, "guidance_scale": 1.0, "seed": 0, "scheduler": "ddim"} | told
        with rows.sessions.begin() as session:
            session.add(row)
        return row.id

    return add


def kept(engine: Engine) -> list[str]:
    return list(engine._bases._values)


@pytest.mark.parametrize(
    ("room", "left"), [(10, ["a", "b", "c"]), (6, ["a", "b", "c"]), (5, ["b", "c"]), (3, ["c"]), (0, ["c"])]
)
def test_what_was_unused_for_longest_goes_until_the_rest_has_room(room: int, left: list[str]) -> None:
    sizes = {"a": 1, "b": 2, "c": 3}
    values: Kept[str] = Kept(str, lambda: room, sizes.__getitem__)
    for key in sizes:
        values.get(key)
    assert values.shrink() is (len(left) < 3)
    assert list(values._values) == left


def test_a_value_is_loaded_once_and_use_keeps_it(tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(key: str) -> str:
        loaded.append(key)
        return key

    values = Kept(load, lambda: 2, lambda _: 1)
    for key in ("a", "b", "a", "c"):
        values.get(key)
        values.shrink()
    assert list(values._values) == ["a", "c"]
    assert loaded == ["a", "b", "c"]


def test_bases_are_kept_by_their_bytes(ask: Ask, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sizes = Engine(), {}
    for task, told in (("class-conditional", CLASSES), ("text-to-image", PROMPTS)):
        engine.run(ask(task, told))
        sizes[task] = engine._bases.get(f"tiny-{task}").nbytes()
    assert kept(engine) == ["tiny-class-conditional", "tiny-text-to-image"]
    network, vae = engine._bases.get("tiny-class-conditional").modules()
    assert sizes["class-conditional"] == sum(t.nbytes for m in (network, vae) for t in {*m.parameters(), *m.buffers()})
    monkeypatch.setattr(worker.generations.engine, "_room_for_bases", lambda: sum(sizes.values()))
    engine = Engine()
    for task, told in (("class-conditional", CLASSES), ("text-to-image", PROMPTS), ("text-to-image-pixart", PROMPTS)):
        engine.run(ask(task, told))
    assert kept(engine) in (["tiny-text-to-image", "tiny-text-to-image-pixart"], ["tiny-text-to-image-pixart"])


def test_where_memory_runs_out_other_models_go_and_it_is_tried_once_more(
    ask: Ask, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()
    engine.run(ask("class-conditional", CLASSES))
    allocate_beside(engine, monkeypatch, others=1)
    wanted = ask("text-to-image", PROMPTS)
    engine.run(wanted)
    assert rows.get(Generation, wanted).status == "succeeded"
    assert kept(engine) == ["tiny-text-to-image"]


def test_what_is_too_much_alone_fails_and_says_why(ask: Ask, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    with monkeypatch.context() as short:
        allocate_beside(engine, short, others=0)
        wanted = ask("text-to-image", PROMPTS)
        engine.run(wanted)
        error = rows.get(Generation, wanted).error
        assert error is not None
        assert error["code"] == "out_of_memory"
        assert "fewer or smaller pictures" in error["message"]
    again = ask("text-to-image", PROMPTS)
    engine.run(again)
    assert rows.get(Generation, again).status == "succeeded"


def allocate_beside(engine: Engine, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """Let drawing prompts want more memory than there is while so many other bases are in memory."""
    from difffit_core.sampling.prompted import PromptedGenerator

    images = PromptedGenerator.images

    def images_in_memory(self: Any, *arguments: Any) -> Any:
        if len(engine._bases) > others:
            torch.empty(2**50)
        return images(self, *arguments)

    monkeypatch.setattr(PromptedGenerator, "images", images_in_memory)
