"""The whole network, and `detect`: image in, boxes out, in one compiled function."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Num

from flaxyolo.base.boxes import letterbox, letterbox_image, unletterbox_boxes
from flaxyolo.base.detections import Detections
from flaxyolo.base.picture import Picture
from flaxyolo.base.pixels import listed_images, rgb_pixels
from flaxyolo.nn.backbone import Backbone
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.fuse import fuse_network, narrow_network
from flaxyolo.nn.head import Head, Predictions
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.neck import NECKS
from flaxyolo.nn.nms import MAX_DETECTIONS, MIN_SCORE, batched_nms, top_pairs
from flaxyolo.nn.tables import entry
from flaxyolo.spec import DetectorSpec

BATCH_SIZE = 16
"""Most images that are detected in together."""
FEW = 500
"""Images up to which a CPU detects one at a time. That takes 1.2 to 1.9 times as long an image
(YOLOv8n at 320 and 128 px), but it is the program that `measure` has compiled: another takes 3 to
6 s more."""
SHOWN_CLASSES = 3
"""Names of classes in the line that stands for a detector."""

Images = Num[Array, "b s s 3"] | Num[np.ndarray, "b s s 3"]
"""Letterboxed images: uint8, or floats in 0..1."""


class Weights(NamedTuple):
    """A detector's arrays: trained parameters and running batch statistics, as plain pytrees."""

    params: Any
    stats: Any


class Slots(NamedTuple):
    """Detections of a batch, best first, in a fixed number of slots; boxes xyxy, input pixels."""

    boxes: Float[Array, "b n 4"]
    scores: Float[Array, "b n"]
    labels: Int[Array, "b n"]
    valid: Bool[Array, "b n"]


class Detector(nnx.Module):
    """Backbone, neck and head of a spec; weights drawn by a numpy generator."""

    def __init__(
        self,
        spec: DetectorSpec,
        *,
        dtype: DTypeLike = jnp.float32,
        rng: np.random.Generator,
    ):
        conv = Layers(spec.norm, spec.activation, dtype)
        neck = entry(NECKS, spec.neck.kind, "neck.kind")
        in_widths = tuple(spec.backbone.level_widths[level] for level in spec.neck.levels)
        self.spec = spec
        self.backbone = Backbone(spec.backbone, conv=conv, rng=rng)
        self.neck = neck(spec.neck, in_widths, spec.neck_widths, conv=conv, rng=rng)
        self.head = Head(spec, conv=conv, rng=rng)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Predictions:
        return self.predictions(self.pyramid(images))

    def predictions(self, features: list[Float[Array, "b _ _ _"]]) -> Predictions:
        """What the head says of the P features."""
        with jax.named_scope("head"):
            return self.head(features)

    def pyramid(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        """The P features, finest first, as the head receives them."""
        with jax.named_scope("backbone"):
            features = self.backbone(images)
        with jax.named_scope("neck"):
            return self.neck([features[level] for level in self.spec.neck.levels])


def compute_dtype() -> DTypeLike:
    """bfloat16 on accelerators, float32 on CPU."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def initial_weights(spec: DetectorSpec, seed: int) -> Weights:
    """Fresh weights, the same for a seed on every backend."""
    return jax.tree.map(jnp.asarray, weights_of(Detector(spec, rng=np.random.default_rng(seed))))


def weights_of(network: nnx.Module) -> Weights:
    """The arrays that a network holds."""
    params, stats = nnx.state(network, nnx.Param, ...)
    return Weights(nnx.as_pure(params), nnx.as_pure(stats))


@lru_cache(maxsize=64)
def abstract_weights(spec: DetectorSpec) -> Weights:
    """Shapes and dtypes of a spec's weights, without memory."""
    return jax.eval_shape(lambda: initial_weights(spec, 0))


@lru_cache(maxsize=64)
def graph(spec: DetectorSpec, *, train: bool, dtype: Any) -> nnx.GraphDef:
    """The network's structure: batch statistics and noise (train), or running ones and none."""
    abstract = nnx.eval_shape(lambda: Detector(spec, dtype=dtype, rng=np.random.default_rng(0)))
    view = nnx.view(
        abstract, use_running_average=not train, deterministic=not train, raise_if_not_found=False
    )
    return nnx.graphdef(view)


class Fused(NamedTuple):
    """A detector's arrays for inference: norms and parallel branches folded into convolutions.

    Kernels are held in the type that is computed in. Of a head with two pairs of branches only the
    one-to-one pair is left.
    """

    params: Any
    stats: Any


def fuse(spec: DetectorSpec, weights: Weights, dtype: DTypeLike | None = None) -> Fused:
    """Fold trained weights for inference, in NumPy: nothing is compiled.

    `dtype` is what is computed in; None is this device's.
    """
    arrays = jax.tree.map(np.asarray, weights)
    computed = compute_dtype() if dtype is None else dtype
    network = nnx.merge(graph(spec, train=False, dtype=computed), *arrays)
    return Fused(*weights_of(narrow_network(fuse_network(network))))


@lru_cache(maxsize=64)
def fused_graph(spec: DetectorSpec, dtype: Any) -> tuple[nnx.GraphDef, Fused]:
    """The folded network's structure, with the shapes and dtypes of its weights."""
    network = Detector(spec, dtype=dtype, rng=np.random.default_rng(0))
    network = narrow_network(fuse_network(network))
    view = nnx.view(network, use_running_average=True, deterministic=True, raise_if_not_found=False)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights_of(network))
    return nnx.graphdef(view), Fused(*shapes)


def scaled(images: Num[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images in 0..1; uint8 ones are divided by 255."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def predict(
    spec: DetectorSpec, weights: Weights, images: Num[Array, "b h w 3"], dtype: Any
) -> Predictions:
    """The network as it is trained, with running statistics."""
    return nnx.merge(graph(spec, train=False, dtype=dtype), *weights)(scaled(images))


@partial(jax.jit, static_argnames=("spec", "dtype"))
def run_network(
    spec: DetectorSpec, fused: Fused, images: Num[Array, "b h w 3"], dtype: Any
) -> Predictions:
    """The folded network with decoding: what `measure` calls the network alone."""
    return nnx.merge(fused_graph(spec, dtype)[0], *fused)(scaled(images))


@partial(jax.jit, static_argnames=("spec", "dtype"))
def detect_batch(
    spec: DetectorSpec, fused: Fused, images: Num[Array, "b h w 3"], dtype: Any
) -> Slots:
    """Folded network, decoding and class-wise NMS in one compiled function.

    One-to-one branches need no NMS: their best box-class pairs are the detections.
    """
    predictions = run_network(spec, fused, images, dtype)
    choose = jax.vmap(best_pairs) if spec.head.one_to_one else batched_nms
    return Slots(*choose(predictions.scores, predictions.boxes))


def best_pairs(
    scores: Float[Array, "a k"], boxes: Float[Array, "a 4"]
) -> tuple[Float[Array, "n 4"], Float[Array, " n"], Int[Array, " n"], Bool[Array, " n"]]:
    """What `nms` returns, without suppression: the best box-class pairs of one image."""
    scores, index, labels = top_pairs(scores, MAX_DETECTIONS)
    valid = scores > MIN_SCORE
    return boxes[index], scores * valid, labels, valid


@lru_cache(maxsize=64)
def compiled_detect(spec: DetectorSpec, batch: int, image_dtype: Any) -> jax.stages.Compiled:
    """`detect_batch` for one shape, with the platform's compiler options: what `measure` times.

    Call it as `f(fused, images)`.
    """
    shape = (batch, spec.image_size, spec.image_size, 3)
    images = jax.ShapeDtypeStruct(shape, image_dtype)
    dtype = compute_dtype()
    return compile_ahead(detect_batch, spec, fused_graph(spec, dtype)[1], images, dtype)


def detect(spec: DetectorSpec, fused: Fused, images: Images) -> Slots:
    """Detections of letterboxed images (uint8, or floats in 0..1), in this device's dtype."""
    function = compiled_detect(spec, len(images), np.dtype(images.dtype))
    return function(fused, jnp.asarray(images))


def in_original(slots: Slots, shapes: Sequence[tuple[int, int]], size: int) -> list[Detections]:
    """The detections of each letterboxed image, best first, in pixels of its original.

    `shapes` are heights and widths of the originals; images of the batch beyond them are filler.
    """
    boxes, scores, labels, valid = map(np.asarray, slots)
    found = []
    for index, (height, width) in enumerate(shapes):
        chosen, place = valid[index], letterbox(height, width, size)
        original = unletterbox_boxes(boxes[index][chosen], place, height, width)
        found.append(
            Detections.from_corners(original, scores[index][chosen], labels[index][chosen])
        )
    return found


def batch_size_for(count: int) -> int:
    """Images to detect in together: one of few sizes, as each is compiled for itself.

    A power of two, up to 16, on accelerators; 1 or 16 on a CPU.
    """
    if jax.default_backend() == "cpu":
        return 1 if count <= FEW else BATCH_SIZE
    return min(BATCH_SIZE, 1 << max(count - 1, 0).bit_length())


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A spec with its weights and class names; call it on an image."""

    spec: DetectorSpec
    weights: Weights
    class_names: tuple[str, ...]

    @cached_property
    def fused(self) -> Fused:
        """The weights folded for inference, on the device; made once."""
        return jax.device_put(fuse(self.spec, self.weights))

    def __repr__(self) -> str:
        params = sum(leaf.size for leaf in jax.tree.leaves(self.weights.params))
        names = ", ".join(self.class_names[:SHOWN_CLASSES])
        more = ", ..." if len(self.class_names) > SHOWN_CLASSES else ""
        return (
            f"<TrainedDetector of {len(self.class_names)} classes ({names:.60}{more}), "
            f"{self.spec.image_size} px, {params:,} parameters>"
        )

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, images: list[Any] | tuple[Any, ...], *, min_score: float = 0.25
    ) -> list[Detections]: ...
    @overload  # of several images where it has four axes
    def __call__(self, images: np.ndarray, *, min_score: float = 0.25) -> Any: ...
    @overload
    def __call__(self, images: Any, *, min_score: float = 0.25) -> Detections: ...
    def __call__(self, images: Any, *, min_score: float = 0.25) -> Any:
        """What is found in one image, in its own pixels, best first: `Detections`.

        An image is an array of RGB (h, w, 3), grey (h, w) or with alpha (h, w, 4), a PIL image or a
        file's name: see `rgb_pixels`. A list, a tuple or an array (n, h, w, 3) of several gives a
        list, one `Detections` for each in order.
        """
        several = listed_images(images)
        if several is None:
            return next(self.each([images], batch_size=1, min_score=min_score))
        size = batch_size_for(len(several))
        return list(self.each(several, batch_size=size, min_score=min_score))

    def each(
        self, images: Iterable[Any], *, batch_size: int, min_score: float = 0.25
    ) -> Iterator[Detections]:
        """The detections of one image after the other; so many are read and detected in together.

        `batch_size_for` says how many suit this device.
        """
        source, size = iter(images), self.spec.image_size
        pictures: deque[Picture] = deque()

        def batches() -> Iterator[tuple[np.ndarray, list[tuple[int, int]]]]:
            while group := list(islice(source, batch_size)):
                pixels = [rgb_pixels(image) for image in group]
                pictures.extend(Picture(image) for image in group)
                squares = np.stack([letterbox_image(one, size) for one in pixels])
                yield squares, [(one.shape[0], one.shape[1]) for one in pixels]

        for found in detect_batches(self, batches(), batch_size):
            chosen = found.part(found.scores >= min_score)
            names = self.class_names
            yield replace(chosen, class_names=names, picture=pictures.popleft())


def detect_batches(
    detector: TrainedDetector,
    batches: Iterable[tuple[np.ndarray, Sequence[tuple[int, int]]]],
    batch_size: int,
) -> Iterator[Detections]:
    """The detections of one image after the other, as `in_original` gives them.

    A batch is letterboxed images, at most `batch_size`, and heights and widths of their originals.
    One shape is one compiled function: a batch that is not full is filled up with black images.
    """
    for images, shapes in batches:
        filler = np.zeros((batch_size - len(images), *images.shape[1:]), images.dtype)
        slots = detect(detector.spec, detector.fused, jnp.asarray(np.concatenate([images, filler])))
        yield from in_original(slots, shapes, images.shape[1])
