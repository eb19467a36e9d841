"""Objects of a few pixels: keep the resolution, spend the time early.

An object of 12 px is three cells wide on P2 and one and a half on P3, so every network here
detects on P2 and takes the larger half of the input sizes. Layers at stride 32 see such an object
as a fraction of a cell: late stages are shallow and narrow, or absent, and only the early ones
may be deep. A path upwards brings little to P2, which it never reaches, so the FPN is tried first.
"""

from collections.abc import Sequence

from optuna.trial import BaseTrial

from flaxyolo.search.space import SMALL_IMAGE_SIZES, suggest_detector
from flaxyolo.spec import DetectorSpec

MAX_DEPTHS = (3, 3, 1, 1)
"""What is tried where no sweep says otherwise."""


def suggest(
    trial: BaseTrial,
    *,
    image_sizes: Sequence[int] | None = None,
    widths: tuple[int, int, int] | None = None,
    max_depths: Sequence[int] | None = None,
) -> DetectorSpec:
    """Draw a detector with P2, at the larger half of the sizes."""
    sizes = tuple(image_sizes or SMALL_IMAGE_SIZES)
    most = max(max_depths) if max_depths else MAX_DEPTHS[0]
    return suggest_detector(
        trial,
        image_sizes=sizes[len(sizes) // 2 :],
        plans=("P2-P4", "P2-P5"),
        ratios=(1.25, 1.75, 0.25),
        widths=widths,
        cap=4,
        max_depths=(most, most, *MAX_DEPTHS[2:]),
    )
