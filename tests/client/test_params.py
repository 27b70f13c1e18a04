"""`difffit params`: the count of a published model, as JSON and for people, and what is refused."""

import importlib.util
from dataclasses import asdict

import pytest

from client.params import present
from difffit_core.methods.config import named_method
from difffit_core.planning.counting import count
from tests.client.conftest import Command


def test_json_tells_the_count_by_kind(difffit: Command) -> None:
    result = difffit("params", "--model", "dit-xl-2-256", "--method", "difffit", "--classes", "101", "--json")
    assert result.exit_code == 0
    counted = result.json()
    assert (counted["total"], counted["trained"], counted["adapter_bytes"]) == (673_799_072, 703_904, 4 * 703_904)
    assert counted["kinds"] == {"bias": 489_632, "class_table": 117_504, "scale": 96_768}
    assert counted["percent"] == pytest.approx(0.1045)
    assert "groups" not in counted


def test_people_see_a_table_by_kind_and_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    present(asdict(count("sd-1.5-unet", named_method("difffit", {"preset": "branches"}))), False)
    shown = capsys.readouterr().out
    for text in ("593,604", "γ", "149,760", "up_blocks.*.attentions.*.proj_out.gamma_branch"):
        assert text in shown


@pytest.mark.parametrize(
    ("words", "code", "param"),
    [
        (["--method", "magic"], "unknown_method", "method.type"),
        (["--set", "scale_blocks=-1"], "invalid_spec", "method.scale_blocks"),
        (["--set", "rank=8"], "invalid_spec", "method.rank"),
    ],
)
def test_wrong_settings_are_refused_with_their_field(difffit: Command, words: list[str], code: str, param: str) -> None:
    result = difffit("params", "--model", "dit-xl-2-256", *words, "--json")
    assert result.exit_code == 2
    error = result.json()["error"]
    assert (error["code"], error["param"]) == (code, param)


def test_an_unknown_model_is_refused_with_the_known_ones(difffit: Command) -> None:
    result = difffit("params", "--model", "dit-xxl", "--json")
    assert result.exit_code == 2
    assert result.json()["error"]["code"] == "unknown_base_model"
    assert "llama-7b" in result.stderr


def test_without_torch_it_says_what_to_install(difffit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    result = difffit("params", "--model", "dit-xl-2-256")
    assert result.exit_code == 2
    assert "difffit[train]" in result.stderr
