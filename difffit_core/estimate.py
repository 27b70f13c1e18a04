"""What a plan says of memory and size. Torch-free: a worker computes it, the API passes it on."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Bytes = Annotated[int, Field(ge=0)]


class Memory(BaseModel):
    """Bytes on the device while training, by part."""

    model_config = ConfigDict(extra="forbid")

    frozen_weights: Bytes = Field(
        description="In the precision they are stored in, with all networks that the loss goes through"
    )
    trained_values: Bytes
    gradients: Bytes = Field(description="Of all that is trained")
    optimizer: Bytes = Field(description="AdamW's two moments")
    ema: Bytes = Field(description="The averaged values")
    examples: Bytes = Field(description="All encoded examples of the dataset, which stay on the device")
    activations_fixed: Bytes = Field(description="Of a step, however many examples it holds")
    activations_per_example: Bytes = Field(description="Of a step, for each example that is held at a time")
    total: Bytes = Field(
        description="At the peak of a step with the planned micro-batch. Below the sum of the parts where gradients come "
        "as activations go"
    )
    error: float | None = Field(
        description="By how much of the total a measured peak has differed from it at most (docs/plans.md); null: not measured "
        "on such a device"
    )


class Estimate(BaseModel):
    """What a training needs, computed for the device of a worker."""

    model_config = ConfigDict(extra="forbid")

    device: str = Field(description="For which this was computed: the GPU's name or the CPU's model")
    device_bytes: Bytes = Field(description="Its whole memory")
    trained_parameters: int
    total_parameters: int
    adapter_bytes: Bytes
    memory: Memory
    micro_batch_size: int = Field(description="The planned one")
    largest_micro_batch_size: int | None = Field(
        description="The first of the batch size, its half, its quarter and so on that takes no more than 90 % of the device's "
        "memory; null: not even one example fits"
    )
