"""What fusion did to a network, and what it left and why."""

import dataclasses


@dataclasses.dataclass
class FusionReport:
    """What became of the layers of a network.

    Attributes:
        folded: Names of the batch norms that became part of a convolution.
        removed: Names of the layers that are not needed in inference.
        moved_strides: Names of the 1x1 convolutions whose stride a depthwise one has now.
        kept_strides: Names of those whose stride no depthwise one can have.
        left: Dictionary from the names of the batch norms that are left, mostly as a scale and
            shift of each channel, to the reasons.
        forms: Dictionary from the names of 1x1 convolutions after a depthwise one to the form.
        kept_forms: Dictionary from the names of those that cannot have the form to the reasons.
        measurements: List of what `form="auto"` measured: dictionaries of `layers`,
            `input_shape`, `batch_size`, `milliseconds` by form, and the `form` chosen.
        difference: Float, the maximal difference of outputs, relative to the largest.
    """

    folded: list[str] = dataclasses.field(default_factory=list)
    removed: list[str] = dataclasses.field(default_factory=list)
    moved_strides: list[str] = dataclasses.field(default_factory=list)
    kept_strides: list[str] = dataclasses.field(default_factory=list)
    left: dict[str, str] = dataclasses.field(default_factory=dict)
    forms: dict[str, str] = dataclasses.field(default_factory=dict)
    kept_forms: dict[str, str] = dataclasses.field(default_factory=dict)
    measurements: list[dict] = dataclasses.field(default_factory=list)
    difference: float = 0.0

    def to_dict(self) -> dict:
        """Return the attributes as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{len(self.folded)} batch norms folded, {len(self.left)} left; "
            f"{len(self.moved_strides)} strides moved; {len(self.removed)} layers not needed in "
            f"inference removed; outputs differ by {self.difference:.1e} of the largest.",
        ]
        lines += [
            f"  {', '.join(row['layers'])}: {row['form']} ("
            + ", ".join(f"{form} {ms:.3f} ms" for form, ms in row["milliseconds"].items())
            + f" for {row['batch_size']} x {row['input_shape']})"
            for row in self.measurements
        ]
        sections = {
            "Batch norms not folded:": self.left,
            "Not in the chosen form:": self.kept_forms,
            "Strides left in the 1x1 convolution:": dict.fromkeys(
                self.kept_strides, "a depthwise convolution takes no such stride"
            ),
        }
        for title, reasons in sections.items():
            if reasons:
                lines.append(title)
                lines += [f"  {name}: {reason}" for name, reason in reasons.items()]
        return "\n".join(lines)
