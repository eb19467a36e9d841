"""A space of networks so small that a whole sweep fits into a test."""

from functools import partial

from flaxyolo.search.space import suggest_detector

suggest = partial(
    suggest_detector,
    image_sizes=(64,),
    plans=("P3-P5", "P3-P4"),
    blocks=("residual", "plain"),
    necks=("fpn",),
    widths=(8, 8, 8),
    cap=4,
    max_depths=(1,),
)
