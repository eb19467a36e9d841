"""Small processors: few channels, few operations, no lookups that a CPU is slow at.

A CPU has its best throughput in dense 3x3 and 1x1 convolutions, where few channels keep a layer in
its caches, and runs depthwise ones at the speed of memory, which still pays where channels are
many; grouped convolutions have the disadvantages of both. Attention over a map adds passes over
memory, so there is none. At small maps the number of operations costs more than their size, so
depths are small. RepVGG's three branches are one dense convolution in use, so it stands for the
plain block. ReLU and hard-swish need no exponential. A larger budget is spent on width and pixels
before depth.
"""

from collections.abc import Sequence

from optuna.trial import BaseTrial

from flaxyolo.search.space import suggest_detector
from flaxyolo.spec import DetectorSpec

WIDTHS = (8, 24, 8)
MAX_DEPTHS = (1, 2, 2, 1)
"""What is tried where no sweep says otherwise."""


def suggest(
    trial: BaseTrial,
    *,
    image_sizes: Sequence[int] | None = None,
    widths: tuple[int, int, int] | None = None,
    cap: int | None = None,
    max_depths: Sequence[int] | None = None,
) -> DetectorSpec:
    """Draw a shallow detector of cheap layers."""
    return suggest_detector(
        trial,
        image_sizes=image_sizes,
        plans=("P3-P5", "P3-P4", "P3-P5 patchify"),
        blocks=("residual", "repvgg", "c2f", "c3", "depthwise"),
        late_blocks=("residual", "repvgg", "c2f", "depthwise", "depthwise_k5", "mbconv"),
        neck_blocks=("plain", "depthwise", "c2f_plain"),
        activations=("silu", "relu", "hard_swish"),
        widths=widths or WIDTHS,
        cap=cap,
        max_depths=[max(1, most - 1) for most in max_depths] if max_depths else MAX_DEPTHS,
    )
