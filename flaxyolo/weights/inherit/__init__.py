"""Weights of any detector from a trained one of any other: what both have is followed through.

`inherit` in `detector` walks through both networks side by side. For every feature of the child a
channel map says which channel of the parent's feature each of its channels carries, so that a
kernel finds its numbers however the widths and the concatenated parts have moved.
"""
