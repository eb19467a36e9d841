"""The default space: CSP, residual and depthwise blocks, SE attention, two necks, input size.

`python -m flaxyolo.sweep` without `--space` searches the same space; copy this file to change it.
"""

from flaxyolo.search.space import suggest_detector

suggest = suggest_detector
