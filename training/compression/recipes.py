"""The ways to compress a network, as data: which steps lead to each."""

import dataclasses
import math
import re
from collections.abc import Iterable

from training.recipe import require_fields

CONVERSIONS = ("float16", "dynamic", "int8", "onnx", "onnx_int8")
# By name, with N for a number: what it gives, and the steps. A step is `fuse`; one that trains,
# `tune`, `quantize`, or `prune`, `cluster` and `branches` with a number; or what LiteRT's converter
# does, or the exporter to ONNX.
_RECIPES = {
    "float": ("The trained network as it is, float32.", ()),
    "fused": ("Batch norms folded (`km.fuse`), float32.", ("fuse",)),
    "float16": ("Fused, weights in float16.", ("fuse", "float16")),
    "dynamic": ("Fused, weights in int8, activations in float32.", ("fuse", "dynamic")),
    "ptq": ("Fused, int8 throughout, ranges from training images.", ("fuse", "int8")),
    "onnx": ("Fused, float32, an ONNX file in OpenVINO.", ("fuse", "onnx")),
    "onnx_int8": (
        "Fused, int8 by NNCF, ranges from training images, an ONNX file in OpenVINO.",
        ("fuse", "onnx_int8"),
    ),
    "tuned": ("Trained further as the others below are, fused, float32.", ("tune", "fuse")),
    "qat": ("Quantization-aware training, int8 throughout.", ("quantize", "int8")),
    "pruneN": ("N % of the weights pruned by magnitude, float32.", ("pruneN",)),
    "clusterN": ("Weights of each kernel clustered to N values, float32.", ("clusterN",)),
    "branchesN": (
        "Kernel branches with under N % of their layer's weights removed, fused, float32.",
        ("branchesN", "fuse"),
    ),
    "pqatN": (
        "N % pruned, then quantization-aware training that keeps the zeros, int8.",
        ("pruneN", "quantize", "int8"),
    ),
    "cqatN": (
        "Clustered to N values, then quantization-aware training that keeps them, int8.",
        ("clusterN", "quantize", "int8"),
    ),
}
_DEFAULT_NUMBERS = {"pqat": 50, "cqat": 16}
_LIMITS = {"cluster": (2, 256), "cqat": (2, 256)}
DEFAULT = "float fused float16 dynamic ptq tuned qat prune50 prune80 pqat cluster16 cqat branches40"


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How a network is trained further, its learning rate falling to zero by a cosine."""

    epochs: int = 2
    learning_rate: float = 0.01
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a finite number above 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
        )
        require_fields(self, checks)


@dataclasses.dataclass(frozen=True)
class Compression:
    """One way to compress a network: its name, a sentence, and steps done one after the other."""

    name: str
    description: str
    steps: tuple[str, ...]

    @property
    def training_steps(self) -> tuple[str, ...]:
        """The steps that train, in order."""
        return tuple(step for step in self.steps if step not in ("fuse", *CONVERSIONS))

    @property
    def conversion(self) -> str:
        """What the last step does; "none" leaves a LiteRT file in float32."""
        return self.steps[-1] if self.steps and self.steps[-1] in CONVERSIONS else "none"


def parse_recipes(texts: Iterable[str]) -> list[Compression]:
    """Return what names stand for, such as "qat" and "prune80", each once, in their order."""
    names = [name.strip() for text in texts for name in text.split(",")]
    return [_parse(name) for name in dict.fromkeys(names)]


def describe_recipes() -> str:
    """Say what each recipe does, a line each."""
    width = max(map(len, _RECIPES))
    return "\n".join(f"{name:<{width}}  {text}" for name, (text, _) in _RECIPES.items())


def split_step(step: str) -> tuple[str, int]:
    """Return the kind of a step and its number; 0 for one without."""
    kind = step.rstrip("0123456789")
    return kind, int(step[len(kind) :] or 0)


def _parse(name: str) -> Compression:
    if name in _RECIPES and not name.endswith("N"):
        return Compression(name, *_RECIPES[name])
    kind, number = split_step(name)
    number = number or _DEFAULT_NUMBERS.get(kind, 0)
    if f"{kind}N" not in _RECIPES:
        known = ", ".join(_RECIPES)
        raise ValueError(f"`recipe` must be of {known}, N a number. Received: recipe={name}")
    low, high = _LIMITS.get(kind, (1, 99))
    if not low <= number <= high:
        raise ValueError(
            f"`recipe` must have a number from {low} to {high} after {kind}. "
            f"Received: recipe={name}"
        )
    description, steps = _RECIPES[f"{kind}N"]
    steps = tuple(step.replace("N", f"{number}") for step in steps)
    return Compression(name, re.sub(r"\bN\b", f"{number}", description), steps)
