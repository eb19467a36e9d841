"""The default space: the 12 decisions that matter most.

Resolution; stride plan and levels; four depths; C2's width and the ratio of growth; the block of
the early and of the late stages; kind and block of the neck. Without P5 there is no `c5.depth`.
`python -m flaxyolo.sweep` without `--space` searches the same space; copy this file to change it.
"""

from flaxyolo.search.space import suggest_detector

suggest = suggest_detector
