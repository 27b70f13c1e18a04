"""Store the frozen matrices of a prepared model in fewer bits while an adapter trains on them."""

from collections.abc import Iterable

from torch import Tensor, nn

from difffit_core.errors import SpecError
from difffit_core.methods.difffit.kernel import scaled_linear
from difffit_core.methods.difffit.layer import ScaledLinear
from difffit_core.runtime.quantization import PackedWeight
from difffit_core.spec.job import BasePrecision


class PackedLinear(nn.Linear):
    """A Linear whose frozen weight is packed; its bias, trained or not, is the Linear's own."""

    def __init__(self, linear: nn.Linear, precision: BasePrecision) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.weight: PackedWeight = PackedWeight(linear.weight, precision)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return scaled_linear(x, self.weight, self.bias, None)


def count_numbers(model: nn.Module, trained: Iterable[nn.Parameter]) -> int:
    """How many parameters a model and what is trained have together, packed ones included."""
    packed = sum(module.shape.numel() for module in model.modules() if isinstance(module, PackedWeight))
    return packed + sum(parameter.numel() for parameter in {*model.parameters(), *trained})


def store_base(model: nn.Module, precision: BasePrecision) -> None:
    """Pack the weight of every Linear that is frozen; "fp32" leaves the model as it is.

    Call it after a method's `prepare`, which says what is frozen. Convolutions, embeddings, norms and all that is trained
    stay in fp32. An adapter trained so belongs to the same base as any other: what it is merged into is the base's own
    weights, from which the packed ones differ by their rounding. Raises SpecError where no Linear is frozen.
    """
    if precision == "fp32":
        return
    packed = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ScaledLinear) and isinstance(child.weight, nn.Parameter) and not child.weight.requires_grad:
                weight = PackedWeight(child.weight, precision)
                del child.weight
                child.weight = weight  # type: ignore[assignment]
                packed += 1
            elif type(child) is nn.Linear and not child.weight.requires_grad:
                setattr(parent, name, PackedLinear(child, precision))
                packed += 1
    if not packed:
        raise SpecError(
            f"base_precision is {precision}, but the method trains every matrix of {type(model).__name__}, so none can be "
            "stored in fewer bits. Use fp32, or a method that freezes the base.",
            code="nothing_to_quantize",
            param="hyperparameters.base_precision",
        )
