"""What a job spec may say, and what "auto" resolves to."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from difffit_core.errors import ModelError, SpecError
from difffit_core.spec.catalog import BaseModelEntry, get_base_model, load_catalog
from difffit_core.spec.job import DatasetSummary, JobSpec
from difffit_core.spec.resolve import resolve
from difffit_core.tasks.config import InstructionConfig

TWO_CLASSES = DatasetSummary(sha256="0" * 64, classes={"cat": 10, "dog": 10}, holds=["file", "label"])
CAPTIONED = DatasetSummary(sha256="0" * 64, classes={"": 7}, holds=["file", "caption"])
ANSWERED = DatasetSummary(sha256="0" * 64, classes={"": 7}, holds=["messages"], frame="alpaca")


def job(method: str = "difffit", **hyperparameters: Any) -> JobSpec:
    body = {"base_model": "tiny", "dataset": "ds_1", "method": {"type": method}, "hyperparameters": hyperparameters}
    return JobSpec.model_validate(body)


def test_difffit_learns_at_ten_times_the_pretraining_rate(tiny_base: BaseModelEntry) -> None:
    assert resolve(job(), tiny_base, TWO_CLASSES).hyperparameters.learning_rate == pytest.approx(1e-2)
    assert resolve(job("full"), tiny_base, TWO_CLASSES).hyperparameters.learning_rate == pytest.approx(1e-3)


def test_a_method_that_does_not_fit_the_family_is_refused(tiny_base: BaseModelEntry) -> None:
    steering = tiny_base.model_copy(update={"family": "stable-diffusion"})
    with pytest.raises(SpecError, match="vpt-deep") as caught:
        resolve(job("vpt-deep"), steering, TWO_CLASSES)
    assert (caught.value.code, caught.value.param) == ("method_does_not_fit", "method.type")


def test_what_is_asked_for_wins_over_auto(tiny_base: BaseModelEntry) -> None:
    resolved = resolve(job(learning_rate=5e-4, steps=77, batch_size="auto"), tiny_base, TWO_CLASSES).hyperparameters
    assert (resolved.learning_rate, resolved.steps, resolved.batch_size) == (5e-4, 77, 4)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "fast", True, None, [1]])
def test_impossible_learning_rates_are_refused(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        job(learning_rate=value)
    assert caught.value.errors()[0]["loc"][:2] == ("hyperparameters", "learning_rate")


@pytest.mark.parametrize(
    "field", [{"learning_rat": 1e-3}, {"steps": 1.5}, {"steps": 0}, {"batch_size": 0}, {"label_dropout": 1}]
)
def test_unknown_or_impossible_hyperparameters_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        job(**field)


def test_one_class_is_refused_with_advice(tiny_base: BaseModelEntry) -> None:
    with pytest.raises(SpecError, match="second class") as caught:
        resolve(job(), tiny_base, DatasetSummary(sha256="0" * 64, classes={"cat": 10}, holds=["file", "label"]))
    assert (caught.value.code, caught.value.param) == ("one_class_only", "dataset")


def test_warmup_longer_than_the_job_is_refused(tiny_base: BaseModelEntry) -> None:
    with pytest.raises(SpecError) as caught:
        resolve(job(steps=5, warmup_steps=5), tiny_base, TWO_CLASSES)
    assert caught.value.param == "hyperparameters.warmup_steps"


def test_full_fine_tuning_leaves_nothing_to_store_in_fewer_bits(tiny_base: BaseModelEntry) -> None:
    with pytest.raises(SpecError, match="trains every matrix") as caught:
        resolve(job("full", base_precision="int8"), tiny_base, TWO_CLASSES)
    assert caught.value.param == "hyperparameters.base_precision"


def test_unknown_base_model_names_the_known_ones() -> None:
    with pytest.raises(ModelError, match="emoji-dit"):
        get_base_model(load_catalog(), "emoji-dot")


def test_what_a_base_does_not_have_cannot_be_set(tiny_bases: dict[str, BaseModelEntry]) -> None:
    with pytest.raises(SpecError, match="means nothing") as caught:
        resolve(job(resolution=64), tiny_bases["instruction"], ANSWERED)
    assert caught.value.param == "hyperparameters.resolution"
    with pytest.raises(SpecError, match="means nothing") as caught:
        resolve(job(max_tokens=64), tiny_bases["text-to-image"], CAPTIONED)
    assert caught.value.param == "hyperparameters.max_tokens"


def test_one_kind_of_picture_is_enough_where_captions_tell(tiny_bases: dict[str, BaseModelEntry]) -> None:
    resolved = resolve(job(), tiny_bases["text-to-image"], CAPTIONED)
    assert (resolved.task.type, resolved.hyperparameters.resolution, resolved.hyperparameters.max_tokens) == (
        "text-to-image",
        16,
        None,
    )


def test_a_dataset_without_what_the_task_learns_from_is_refused(tiny_bases: dict[str, BaseModelEntry]) -> None:
    with pytest.raises(SpecError, match="all have a caption, and this dataset's have only: file, label") as caught:
        resolve(job(), tiny_bases["text-to-image"], TWO_CLASSES)
    assert (caught.value.code, caught.value.param) == ("no_caption", "dataset")


def test_captions_need_not_be_there_where_they_are_written(tiny_bases: dict[str, BaseModelEntry]) -> None:
    asked = JobSpec.model_validate(job().model_dump() | {"task": {"type": "text-to-image", "caption_with": "blip"}})
    assert resolve(asked, tiny_bases["text-to-image"], TWO_CLASSES).task == asked.task


def test_a_base_is_not_for_every_task(tiny_base: BaseModelEntry) -> None:
    asked = JobSpec.model_validate(job().model_dump() | {"task": {"type": "instruction"}})
    with pytest.raises(SpecError, match="it is for class-conditional") as caught:
        resolve(asked, tiny_base, TWO_CLASSES)
    assert (caught.value.code, caught.value.param) == ("wrong_family", "task.type")


def test_a_word_that_the_tokenizer_has_is_refused_before_it_is_loaded(tiny_bases: dict[str, BaseModelEntry]) -> None:
    for identifier in ("a", "A", "<|endoftext|>"):
        task = {"type": "dreambooth", "subject": "star", "identifier": identifier}
        asked = JobSpec.model_validate(job().model_dump() | {"task": task})
        with pytest.raises(SpecError, match="Choose another") as caught:
            resolve(asked, tiny_bases["dreambooth"], TWO_CLASSES)
        assert (caught.value.code, caught.value.param) == ("token_exists", "task.identifier")


def test_no_more_tokens_are_learned_than_the_model_reads(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]) -> None:
    base = tiny_bases["instruction"]
    short = base.model_copy(update={"path": tmp_path / "short"})
    shutil.copytree(base.path, short.path)
    config = json.loads((base.path / "config.json").read_text())
    (short.path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert resolve(job(), short, ANSWERED).hyperparameters.max_tokens == 64
    with pytest.raises(SpecError, match="reads 64 tokens") as caught:
        resolve(job(max_tokens=65), short, ANSWERED)
    assert (caught.value.code, caught.value.param) == ("context_exceeded", "hyperparameters.max_tokens")


def test_prompts_stand_in_the_frame_that_their_rows_are_written_for(tiny_bases: dict[str, BaseModelEntry]) -> None:
    base = tiny_bases["instruction"]
    assert resolve(job(), base, ANSWERED).task == InstructionConfig(type="instruction", frame="alpaca")
    chosen = job().model_copy(update={"task": InstructionConfig(type="instruction", frame="chat")})
    assert resolve(chosen, base, ANSWERED).task == chosen.task
    unsaid = ANSWERED.model_copy(update={"frame": None})
    assert resolve(job(), base, unsaid).task == InstructionConfig(type="instruction", frame="none")


def test_long_rows_are_left_out_unless_a_job_says_otherwise(tiny_bases: dict[str, BaseModelEntry]) -> None:
    assert resolve(job(), tiny_bases["instruction"], ANSWERED).hyperparameters.overlong == "drop"
    assert resolve(job(overlong="cut"), tiny_bases["instruction"], ANSWERED).hyperparameters.overlong == "cut"
    with pytest.raises(SpecError, match="means nothing") as caught:
        resolve(job(overlong="cut"), tiny_bases["text-to-image"], CAPTIONED)
    assert caught.value.param == "hyperparameters.overlong"


def test_instructions_are_learned_with_the_papers_settings(tiny_bases: dict[str, BaseModelEntry]) -> None:
    """LLaMA-7B of the supplement: 3e-4, batch 128 by accumulation, 100 steps of warm-up, 256 tokens."""
    base = tiny_bases["instruction"]
    defaults = base.defaults.model_copy(update={"pretraining_learning_rate": 3e-4, "steps": 1200, "batch_size": 128})
    base = base.model_copy(update={"defaults": defaults})
    many = ANSWERED.model_copy(update={"classes": {"": 52_000}})
    resolved = resolve(job(), base, many).hyperparameters
    assert resolved.learning_rate == pytest.approx(3e-4)
    assert (resolved.batch_size, resolved.micro_batch_size) == (128, 4)
    assert (resolved.warmup_steps, resolved.max_tokens) == (100, 256)
    assert resolve(job(steps=30), base, many).hyperparameters.warmup_steps == 3
    assert resolve(job(steps=1), base, many).hyperparameters.warmup_steps == 0


def test_the_published_dits_are_fitted_with_the_papers_recipe() -> None:
    base = load_catalog()["facebook/DiT-XL-2-256"]
    food = TWO_CLASSES.model_copy(update={"classes": {str(label): 750 for label in range(101)}})
    network = {"sample_size": 32, "patch_size": 2, "block_out_channels": [1, 1, 1, 1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("difffit_core.spec.catalog._read_json", lambda path: network)  # its files are not here
        resolved = resolve(job(), base, food).hyperparameters
    assert resolved.learning_rate == pytest.approx(1e-3)
    assert (resolved.batch_size, resolved.steps) == (256, 24_000)
    assert (resolved.label_dropout, resolved.ema_decay, resolved.resolution) == (0.1, 0.9999, 256)
    assert (resolved.guidance_scale, resolved.sample_steps) == (4.0, 250)
    assert (resolved.lr_schedule, resolved.weight_decay, resolved.horizontal_flip) == ("constant", 0.0, True)


def test_of_a_few_pictures_of_one_subject_all_are_trained_on(tiny_bases: dict[str, BaseModelEntry]) -> None:
    task = {"type": "dreambooth", "subject": "dog"}
    spec = JobSpec.model_validate({"base_model": "tiny", "dataset": "ds_1", "task": task})
    pictures = DatasetSummary(sha256="0" * 64, classes={"": 4}, holds=["file"])
    resolved = resolve(spec, tiny_bases["dreambooth"], pictures)
    assert resolved.task == spec.task
    assert (resolved.hyperparameters.validation_fraction, resolved.hyperparameters.label_dropout) == (0.0, 0.0)


@pytest.mark.parametrize(
    "task", [{"subject": "dog", "identifier": "two words"}, {"subject": ""}, {}, {"subject": "dog", "prior_images": -1}]
)
def test_a_subject_needs_a_kind_and_one_word(task: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate({"base_model": "tiny", "dataset": "ds_1", "task": {"type": "dreambooth"} | task})
