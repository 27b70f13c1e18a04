"""Exported language models are asked as they were trained, by stock transformers and what the README says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from difffit_core.adapters.export.merged import export_merged
from difffit_core.adapters.export.peft import export_peft
from difffit_core.adapters.file import Adapter
from difffit_core.data.framing import Framing
from difffit_core.families.networks import load_tokenizer
from difffit_core.spec.conversations import Message
from difffit_core.tasks.config import InstructionConfig
from tests.difffit_core.adapters.export.bases import of_base, write_base
from tests.difffit_core.cases import make_case

ASKED: list[Message] = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.mark.parametrize("export", [export_merged, export_peft])
@pytest.mark.parametrize("frame", ["alpaca", "chat", "none"])
@pytest.mark.parametrize("template", [None, "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"])
def test_the_folders_tokenizer_asks_in_the_frame(
    tmp_path: Path, export: Any, frame: Any, template: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_case("llama")
    base = write_base("llama", case, tmp_path / "base")
    own = load_tokenizer(base.path)
    own.chat_template = template
    own.save_pretrained(base.path)
    adapter = of_base(case.adapter(), base)
    task = InstructionConfig(type="instruction", frame=frame)
    export(base, Adapter(replace(adapter.header, task=task), adapter.tensors), tmp_path / "out")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert f"frame `{frame}`" in readme
    scope: dict[str, Any] = {"BASE": str(base.path), "FOLDER": str(tmp_path / "out")}
    for code in readme.split("```python\n")[1:]:
        exec(code.split("```")[0], scope)
    assert scope["prompt"]["input_ids"][0].tolist() == Framing(own, frame).asked(ASKED)
    assert capsys.readouterr().out.endswith("\n")
