"""What base models show."""

from pydantic import BaseModel, Field

from difffit_core.spec.catalog import BaseModelEntry, TrainingDefaults
from difffit_core.tasks.config import TaskName


class ModelView(BaseModel):
    id: str
    family: str
    task: TaskName = Field(description="What a job does that names no task")
    tasks: list[TaskName] = Field(description="All that can be trained on it")
    description: str
    license: str
    installed: bool = Field(description="False: its files are not on this server yet; see `difffit models fetch`")
    bytes: int
    image_size: int | None
    classes: list[str]
    defaults: TrainingDefaults

    @classmethod
    def of(cls, entry: BaseModelEntry) -> "ModelView":
        return cls(
            **entry.model_dump(include={"id", "family", "description", "license"}),
            task=entry.tasks[0],
            tasks=list(entry.tasks),
            installed=entry.installed,
            bytes=entry.size_bytes(),
            image_size=entry.image_size() if entry.installed else None,
            classes=entry.class_names() if entry.installed else [],
            defaults=entry.defaults,
        )
