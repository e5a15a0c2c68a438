"""The ways to compress a network, as data: which steps lead to each."""

import dataclasses
import re

BLOCKS = "prune2to4"
CONVERSIONS = ("float16", "dynamic", "int8")

# Without a number; those that take one are below.
_FIXED = {
    "float": ("The trained network as it is, float32.", ()),
    "fused": ("Batch norms folded (`km.fuse`), float32.", ("fuse",)),
    "float16": ("Fused, weights in float16.", ("fuse", "float16")),
    "dynamic": ("Fused, weights in int8, activations in float32.", ("fuse", "dynamic")),
    "ptq": ("Fused, int8 throughout, ranges from training images.", ("fuse", "int8")),
    "tuned": ("Trained further as the others below are, fused, float32.", ("tune", "fuse")),
    "qat": ("Quantization-aware training, int8 throughout.", ("quantize", "int8")),
    BLOCKS: ("Two of each four weights pruned (2:4 blocks), float32.", (BLOCKS,)),
}
_NUMBERED = {
    "prune": ("{} % of the weights pruned by magnitude, float32.", ("prune{}",)),
    "prunedw": ("{} % pruned, depthwise kernels too, float32.", ("prunedw{}",)),
    "cluster": ("Weights of each kernel clustered to {} values, float32.", ("cluster{}",)),
    "branches": (
        "Kernel branches with under {} % of their layer's weights removed, fused, float32.",
        ("branches{}", "fuse"),
    ),
    "pqat": (
        "{} % pruned, then quantization-aware training that keeps the zeros, int8.",
        ("prune{}", "quantize", "int8"),
    ),
    "cqat": (
        "Clustered to {} values, then quantization-aware training that keeps them, int8.",
        ("cluster{}", "quantize", "int8"),
    ),
}
_DEFAULT_NUMBERS = {"pqat": 50, "cqat": 16}
_LIMITS = {"cluster": (2, 256), "cqat": (2, 256)}
DEFAULT = (
    "float,fused,float16,dynamic,ptq,tuned,qat,prune50,prune80,prune2to4,pqat,cluster16,cqat,"
    "branches40"
)


@dataclasses.dataclass(frozen=True)
class Compression:
    """One way to compress a network.

    Attributes:
        name: What the command calls it.
        description: A sentence.
        steps: Names of steps, done one after the other: `fuse`; those that train, `tune`,
            `quantize`, `prune2to4` and `prune`, `prunedw`, `cluster` or `branches` with a number;
            and what LiteRT's converter does, `float16`, `dynamic` or `int8`.
    """

    name: str
    description: str
    steps: tuple[str, ...]

    @property
    def training_steps(self):
        """The steps that train, in order."""
        return tuple(step for step in self.steps if step not in ("fuse", *CONVERSIONS))

    @property
    def conversion(self):
        """What LiteRT's converter does with the weights; "none" leaves them float32."""
        return self.steps[-1] if self.steps and self.steps[-1] in CONVERSIONS else "none"


def parse_recipes(text):
    """Return what a list of names stands for.

    Args:
        text: String, names with commas between them, such as "float,qat,prune80".

    Returns:
        A list of `Compression`, each once, in the order of the names.

    Raises:
        ValueError: If a name is unknown or its number is out of its range.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"`recipe` must name at least one. Received: recipe={text!r}")
    return [_parse(name) for name in dict.fromkeys(names)]


def describe_recipes():
    """Say what each recipe does, a line each."""
    rows = [(name, description) for name, (description, _) in _FIXED.items()]
    rows += [(f"{name}N", text.format("N")) for name, (text, _) in _NUMBERED.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {description}" for name, description in rows)


def split_step(step):
    """Return the kind of a step and its number; 0 for one without."""
    kind = step.rstrip("0123456789")
    return (step, 0) if step == BLOCKS else (kind, int(step[len(kind) :] or 0))


def _parse(name):
    if name in _FIXED:
        return Compression(name, *_FIXED[name])
    match = re.fullmatch(r"([a-z]+)(\d+)?", name)
    kind = match[1] if match else ""
    number = int(match[2]) if match and match[2] else _DEFAULT_NUMBERS.get(kind)
    if kind not in _NUMBERED or number is None:
        known = ", ".join([*_FIXED, *(f"{kind}N" for kind in _NUMBERED)])
        raise ValueError(f"`recipe` must be of {known}, N a number. Received: recipe={name}")
    low, high = _LIMITS.get(kind, (1, 99))
    if not low <= number <= high:
        raise ValueError(
            f"`recipe` must have a number from {low} to {high} behind {kind}. "
            f"Received: recipe={name}"
        )
    description, steps = _NUMBERED[kind]
    return Compression(
        name, description.format(number), tuple(step.format(number) for step in steps)
    )
