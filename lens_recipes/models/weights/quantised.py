"""Products that round what they take: in a quantised model they are not additive."""

from __future__ import annotations

from nnsight.intervention.envoy import Envoy

# Packages whose linear layers, or whose weights, are quantised.
PACKAGES = (
    "auto_gptq",
    "awq",
    "bitsandbytes",
    "compressed_tensors",
    "eetq",
    "gptqmodel",
    "hqq",
    "optimum",
    "quanto",
    "torch.ao",
    "torchao",
)

CAUSE = (
    "this model is quantised ({path} is {kind}): such a product may round what it takes by the "
    "largest number that it is given, so the product of a sum is not the sum of the products, and "
    "a vector alone gives other numbers than among others. Read the model unquantised, or, "
    "where its parts do not add up, ask for larger parts: layers or components, not heads"
)


def cause_in_quantisation(model: Envoy) -> str | None:
    """Return why sums and products may be off in a quantised model; None if it is not quantised."""
    for path, module in model._module.named_modules():
        for part in (module, getattr(module, "weight", None)):
            package = type(part).__module__
            if package.startswith(tuple(f"{name}." for name in PACKAGES)) or package in PACKAGES:
                return CAUSE.format(path=path, kind=f"of the class {type(part).__name__}")
    return None
