"""Networks so small that each trains in a second, and hundreds of them."""

from functools import partial

from flaxyolo.search.space import suggest_detector

suggest = partial(
    suggest_detector,
    image_sizes=(64,),
    plans=("P3-P5", "P3-P4"),
    blocks=("residual", "plain"),
    necks=("fpn", "pan"),
    widths=(8, 16, 8),
    cap=4,
    max_depths=(2, 2, 2, 1),
)
