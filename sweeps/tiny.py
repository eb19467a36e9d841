"""A space of networks so small that a whole sweep fits into a test."""

from functools import partial

from flaxyolo.search.space import suggest_detector

suggest = partial(
    suggest_detector,
    image_sizes=(64,),
    blocks=("residual",),
    attentions=("none",),
    necks=("fpn",),
    stem_widths=(8, 8, 8),
    c2_widths=(8, 8, 8),
    c3_widths=(8, 24, 8),
    c4_widths=(8, 32, 8),
    c5_widths=(16, 32, 8),
    head_widths=(16, 32, 8),
    max_depth=1,
)
