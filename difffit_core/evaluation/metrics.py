"""What can be measured, by which network, and what a figure says of itself. Torch-free: the API and the client share it."""

from typing import Annotated, Literal

from pydantic import Field

from difffit_core.errors import ModelError, SpecError
from difffit_core.spec.strict import Strict

MetricName = Literal["fid", "kid", "precision-recall", "clip-score", "fd-mobilenet"]
ExtractorName = Literal["inception", "clip", "mobilenet"]
MetricNames = Annotated[list[MetricName], Field(max_length=5, description="What to measure of the pictures")]
SampleCount = Annotated[int, Field(strict=True, ge=4, le=50_000, description="Pictures that are measured")]

DEFAULT_SAMPLES = 500
NEEDS_CAPTIONS: frozenset[MetricName] = frozenset({"clip-score"})

EXTRACTOR_OF_METRIC: dict[MetricName, ExtractorName] = {
    "fid": "inception",
    "kid": "inception",
    "precision-recall": "inception",
    "clip-score": "clip",
    "fd-mobilenet": "mobilenet",
}
SETTING_OF_EXTRACTOR: dict[ExtractorName, str] = {"inception": "DIFFFIT_INCEPTION_WEIGHTS", "clip": "DIFFFIT_CLIP_MODEL"}


class FeatureWeights(Strict):
    """Where the networks that measure lie on this machine; MobileNetV2 comes from a package where no file is named."""

    inception: str | None = None  # torch-fidelity's file; fetched to there where it is missing
    clip: str | None = None  # a folder that transformers' CLIPModel loads
    mobilenet: str | None = None


class Reference(Strict):
    """Which pictures the generated ones are compared with: the held-out ones of a dataset."""

    dataset: str = Field(description="SHA-256 of the dataset's content")
    split: str = Field(description="`test`: the authors' own; `0.1`: the share of each class that is held out")


class EvaluationPlan(Strict):
    """How many pictures, of which size, are compared with what, and how. Picture i starts from the noise of `seed + i`."""

    metrics: list[MetricName]
    samples: int
    seed: int
    resolution: int
    reference: Reference


class Figure(Strict):
    """One number, with all that it depends on beside the model. Figures may be compared where all of that is equal."""

    metric: Literal["fid", "kid", "precision", "recall", "clip-score", "fd-mobilenet"]
    value: float
    std: float | None = Field(None, description="Over random subsets, for a kernel distance")
    samples: int = Field(description="Generated pictures")
    reference_images: int | None = Field(description="Held-out pictures; null for what compares pictures with captions")
    reference: Reference
    resolution: int = Field(description="Width and height in pixels at which pictures were compared")
    extractor: str = Field(description="The network, and the beginning of the SHA-256 of its weights")


def extractors_of(metrics: list[MetricName]) -> list[ExtractorName]:
    """The networks that these metrics need, each once."""
    return list(dict.fromkeys(EXTRACTOR_OF_METRIC[metric] for metric in metrics))


def check_metrics(metrics: list[MetricName], has_pictures: bool, has_captions: bool, param: str) -> None:
    """Raise SpecError where the model makes no pictures, or a metric wants captions and it is told none."""
    if metrics and not has_pictures:
        raise SpecError("Only what makes pictures can be evaluated; this base model makes none.", param=param)
    wanting = [metric for metric in metrics if metric in NEEDS_CAPTIONS]
    if wanting and not has_captions:
        raise SpecError(
            f"{wanting[0]} compares pictures with their captions, and this model is told classes instead. Leave it out.",
            code="no_captions",
            param=param,
        )


def check_configured(metrics: list[MetricName], weights: FeatureWeights, param: str) -> None:
    """Raise SpecError (`feature_weights_missing`) that names the setting which a metric wants and nobody has set."""
    for metric in metrics:
        extractor = EXTRACTOR_OF_METRIC[metric]
        if extractor in SETTING_OF_EXTRACTOR and getattr(weights, extractor) is None:
            raise SpecError(f"{metric} cannot be measured here: {_advice(extractor)}", code=MISSING, param=param)


def missing_weights(extractor: ExtractorName, reason: str) -> ModelError:
    """The error of whoever needs weights that are not there."""
    return ModelError(f"The weights of {extractor} are missing: {reason}. {_advice(extractor)}", code=MISSING)


MISSING = "feature_weights_missing"


def _advice(extractor: ExtractorName) -> str:
    setting = SETTING_OF_EXTRACTOR.get(extractor)
    return f"Ask the operator to set {setting}, for the API and the workers." if setting else ""
