"""Small processors: few channels, few operations, no lookups that a CPU is slow at.

A CPU has its best throughput in dense 3x3 and 1x1 convolutions, where few channels keep a layer in
its caches, and runs depthwise ones at the speed of memory, which still pays where channels are
many; grouped convolutions have the disadvantages of both. Attention over a map adds passes over
memory, so there is none. At small maps the number of operations costs more than their size, so
depths are small. RepVGG's three branches are one dense convolution in use, so it stands for the
plain block. ReLU and hard-swish need no exponential.
"""

from functools import partial

from flaxyolo.search.space import suggest_detector

suggest = partial(
    suggest_detector,
    plans=("P3-P5", "P3-P4", "P3-P5 patchify"),
    blocks=("residual", "repvgg", "c2f", "c3", "depthwise"),
    late_blocks=("residual", "repvgg", "c2f", "depthwise", "depthwise_k5", "mbconv"),
    neck_blocks=("plain", "depthwise", "c2f_plain"),
    activations=("silu", "relu", "hard_swish"),
    widths=(8, 24, 8),
    max_depths=(1, 2, 2, 1),
)
