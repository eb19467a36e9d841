"""The points of a learning curve, as a trial's record keeps them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ADDED = ("objective_se", "val_loss")
"""Fields of a scored epoch that studies of old do not have."""


@dataclass(frozen=True)
class CurvePoint:
    """What an epoch left; without an objective it was not scored."""

    epoch: int
    objective: float | None = None
    loss: Mapping[str, float] = field(default_factory=dict)
    """Mean terms of the epoch, before gains."""
    map: float | None = None
    map_50: float | None = None
    epoch_seconds: float = 0.0
    objective_se: float | None = None
    """Standard error of the objective over the validation images; a seed's comes on top."""
    val_loss: float | None = None
    """The training loss on the validation images, its terms times their gains."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        scored = self.objective is not None
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None or (scored and name not in ADDED)
        }
