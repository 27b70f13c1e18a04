"""Which class does which task. Each is imported when it is asked for: a job on pictures of classes needs no text models."""

import torch

from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.task import Task
from difffit_core.training.frozen_base import store_base


def ready_task(spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> Task:
    """The task with its method put in, on the device, all but what `load_frozen` loads."""
    task = load_task(spec, base, device)
    task.prepare()
    store_base(task.model, spec.hyperparameters.base_precision)
    task.model.to(device).train()
    if spec.hyperparameters.gradient_checkpointing:
        task.use_gradient_checkpointing()
    return task


def load_task(spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> Task:
    """The task of `spec` with the base's model loaded; raises ModelError where it cannot be."""
    match spec.task.type:
        case "class-conditional":
            from difffit_core.tasks.class_conditional import ClassConditional

            return ClassConditional(spec, base, device)
        case "text-to-image":
            from difffit_core.tasks.text_to_image import TextToImage

            return TextToImage(spec, base, device)
        case "dreambooth":
            from difffit_core.tasks.dreambooth import DreamBooth

            return DreamBooth(spec, base, device)
        case "controlnet":
            from difffit_core.tasks.controlnet import ControlNet

            return ControlNet(spec, base, device)
        case "instruction":
            from difffit_core.tasks.instruction import Instruction

            return Instruction(spec, base, device)
