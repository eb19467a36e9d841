"""Weights of one detector from those of another, trained one, whatever differs between the two."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxyolo.nn.detector import Detector, Weights, graph, weights_of
from flaxyolo.nn.neck import BiFPN, Same
from flaxyolo.spec import DetectorSpec
from flaxyolo.weights.inherit.channels import SILENT, Map
from flaxyolo.weights.inherit.head import inherit_head
from flaxyolo.weights.inherit.pyramid import inherit_backbone, inherit_neck, inherit_out
from flaxyolo.weights.inherit.walk import Change, Kind, Part, Walk, modules, own_params

Names = tuple[Sequence[str], Sequence[str]]
"""Names of the child's and of the parent's classes."""


class Inherited(NamedTuple):
    """Weights of which some are a parent's, and what became of every layer."""

    weights: Weights
    parts: tuple[Part, ...]
    """Every layer with parameters of its own; those of running statistics are not counted."""
    changes: tuple[Change, ...]
    """Why outputs differ from the parent's at the start; none where they do not."""
    channels: Mapping[str, Map]
    """Which of the parent's channels each feature that both have carries, by C or P level."""
    parent_params: int
    """All of the parent's."""

    @property
    def params(self) -> int:
        """All parameters."""
        return sum(part.params for part in self.parts)

    @property
    def share(self) -> float:
        """Of the parameters, those that are the parent's."""
        return sum(part.taken for part in self.parts) / self.params

    @property
    def nearness(self) -> float:
        """How near the start is to the parent's end, 0 to 1: the share of layers that are not
        fresh, or that of the parent's parameters that are taken, whichever is less.

        A smaller network may be all the parent's, and yet be little of it.
        """
        taken = sum(part.taken for part in self.parts) / self.parent_params
        return min(1 - self.shares.get("fresh", 0.0), taken)

    @property
    def shares(self) -> dict[Kind, float]:
        """Of the parameters, those of layers of each kind."""
        counts: Counter[Kind] = Counter()
        for part in self.parts:
            counts[part.kind] += part.params
        return {kind: count / self.params for kind, count in counts.items()}

    def describe(self) -> str:
        """What was inherited, in a line."""
        kinds = ", ".join(f"{share:.0%} {kind}" for kind, share in self.shares.items())
        text = f"{self.share:.0%} of {self.params:,} parameters inherited (layers: {kinds})"
        if not self.changes:
            return f"{text}; it does what the parent does"
        first = self.changes[0]
        more = f" and {len(self.changes) - 1} more" if len(self.changes) > 1 else ""
        return f"{text}; not as the parent: {first.path or 'network'} ({first.why}){more}"


def inherit(
    spec: DetectorSpec,
    parent: DetectorSpec,
    weights: Weights,
    seed: int,
    *,
    names: Names | None = None,
    ranked: bool = True,
) -> Inherited:
    """Weights of `spec` from the `weights` of `parent`; what is new is drawn with the seed.

    More width, depth, bins or larger kernels leave what the detector does as it was; of fewer
    channels those with the largest norm scales stay (without `ranked` the first). Classes are
    matched by their names; without names they are the same if they are as many.
    """
    child = Detector(spec, rng=np.random.default_rng(seed))
    arrays = jax.tree.map(np.asarray, weights)
    old: Detector = nnx.merge(graph(parent, train=False, dtype=jnp.float32), *arrays)
    walk = Walk(child, old, ranked=ranked, relu=spec.activation == "relu")
    if spec.activation != parent.activation:
        walk.changed(child, f"{spec.activation} instead of {parent.activation}")
    # Kernels of a shared head see the channels of all levels. Where stems or last convolutions lead
    # to them, those choose for all levels together; else all keep their first channels.
    tied = spec.head.shared and not (spec.head.stem_width and parent.head.stem_width)
    ends = bool(spec.neck.out_width and parent.neck.out_width)
    levels = spec.neck.levels, parent.neck.levels
    features = inherit_backbone(
        walk,
        child.backbone,
        old.backbone,
        tied=(tied and not ends) or fused_unprojected(child.neck),
    )
    made = parent.backbone.level_widths
    channels = {f"C{level}": part for level, part in features.items() if level in made}
    widths = made, dict(zip(levels[1], parent.neck_widths, strict=True))
    features = inherit_neck(
        walk, child.neck, old.neck, features, levels, widths, tied=tied and not ends
    )
    features = inherit_out(walk, child.neck, old.neck, features, levels, tied=tied)
    channels |= {f"P{level}": part for level, part in features.items() if level in levels[1]}
    inherit_head(walk, child.head, old.head, features, levels, class_map(spec, parent, names))
    parts = tuple(
        walk.parts.get(path, Part(path, "fresh", own_params(module), 0, None))
        for path, module in modules(child)
        if own_params(module)
    )
    taken = jax.tree.map(jnp.asarray, weights_of(child))
    old_params = sum(own_params(module) for _, module in modules(old))
    return Inherited(taken, parts, tuple(walk.changes), channels, old_params)


def fused_unprojected(neck: nnx.Module) -> bool:
    """Whether a neck adds features of several levels as the backbone gives them."""
    return isinstance(neck, BiFPN) and any(isinstance(layer, Same) for layer in neck.project)


def class_map(spec: DetectorSpec, parent: DetectorSpec, names: Names | None) -> Map:
    """The parent's class of each class."""
    if names is not None:
        ours, theirs = map(list, names)
        return np.array([theirs.index(name) if name in theirs else SILENT for name in ours])
    same = spec.num_classes == parent.num_classes
    return np.arange(spec.num_classes) if same else np.full(spec.num_classes, SILENT)
