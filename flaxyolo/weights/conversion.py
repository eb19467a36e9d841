"""Weights from elsewhere as those of a detector."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.nn.detector import Weights, abstract_weights
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.spec import DetectorSpec
from flaxyolo.weights.families import FAMILIES, Family, ImageForm, their_names
from flaxyolo.weights.state_dicts import Arrays, listed

FOREIGN_WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What names may begin with when a whole training object was saved."""

FIRST_OF_DEEP = "backbone.stem.first"
"""The first convolution of a deep stem."""


class Converted(NamedTuple):
    """Weights of ours, whose names they had, and how many arrays were read and left out."""

    weights: Weights
    family: str
    read: int
    unused: int


def convert(
    arrays: Mapping[str, np.ndarray],
    spec: DetectorSpec,
    family: str | None = None,
    *,
    fold_images: bool = True,
) -> Converted:
    """A state dict as weights of ours; InputError lists what is missing, too much or misshapen.

    With `fold_images` the network takes our images, RGB in 0..1, whatever it took before.
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    form = FAMILIES[family or nearest_family(arrays, spec)]
    # Some families differ by what their networks hold alone.
    name = family or "/".join(each for each, other in FAMILIES.items() if other == form)
    names, arrays = names_and_arrays(arrays, spec, form)
    copies = form.copies(spec)
    unused = [each for each in arrays if each.endswith(form.unused)]
    check(arrays, names, shapes(spec), copies, unused, name)
    ours = {path: from_torch(np.asarray(arrays[each], np.float32)) for path, each in names.items()}
    adapt_epsilon(ours, form.epsilon)
    if form.points_at_corner:
        move_points(ours)
    if fold_images:
        fold_image_form(ours, form.images)
    return Converted(as_weights(ours, spec), name, len(names) + len(copies), len(unused))


def nearest_family(arrays: Arrays, spec: DetectorSpec) -> str:
    """The family of which most names are there."""
    hits, reasons = {}, []
    for name, family in FAMILIES.items():
        try:
            names, found = names_and_arrays(arrays, spec, family)
        except InputError as error:
            reasons.append(str(error))
            continue
        hits[name] = len(set(names.values()) & set(found))
    best = max(hits, key=hits.__getitem__, default=None)
    if best is None:
        raise InputError(f"the config is no network of {', '.join(FAMILIES)}: {reasons[0]}")
    if not hits[best]:
        raise InputError(
            f"expected the names of {', '.join(FAMILIES)}, got {listed(arrays)}; "
            "give the state dict of the whole network"
        )
    return best


def names_and_arrays(
    arrays: Arrays, spec: DetectorSpec, family: Family
) -> tuple[dict[str, str], Arrays]:
    """Their name of each of our arrays, and the arrays without what wraps all their names."""
    names = their_names(spec, family)
    expected, best = set(names.values()), arrays
    stripped = arrays
    while wrapper := next((w for w in FOREIGN_WRAPPERS if _all_begin(stripped, w)), None):
        stripped = {name.removeprefix(wrapper): array for name, array in stripped.items()}
        if len(expected & set(stripped)) > len(expected & set(best)):
            best = stripped
    return names, best


def _all_begin(names: Iterable[str], start: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(start) for name in names)


def check(
    arrays: Arrays,
    names: dict[str, str],
    expected: dict[str, tuple[int, ...]],
    copies: dict[str, str],
    unused: Iterable[str],
    family: str,
) -> None:
    """InputError if anything is missing, too much, of another shape, or not a number."""
    wanted = [*names.values(), *copies]
    missing = [name for name in wanted if name not in arrays]
    surplus = list(set(arrays) - set(wanted) - set(unused))
    misshapen = []
    for path, name in names.items():
        shape = torch_shape(expected[path])
        if name in arrays and arrays[name].shape != shape:
            misshapen.append(f"{name} {arrays[name].shape} instead of {shape}")
    differing = [
        f"{copy} differs from {name}"
        for copy, name in copies.items()
        if copy in arrays and name in arrays and not np.array_equal(arrays[copy], arrays[name])
    ]
    broken = [
        name
        for name in names.values()
        if name in arrays and not np.isfinite(arrays[name].astype(np.float32)).all()
    ]
    problems = {
        "missing": missing,
        "too many": surplus,
        "of another shape": misshapen,
        "not as shared": differing,
        "not finite": broken,
    }
    told = [
        f"{len(found)} {kind}: {listed(sorted(found))}" for kind, found in problems.items() if found
    ]
    if told:
        raise InputError(f"the weights are not those of the config as {family}: {'; '.join(told)}")


def shapes(spec: DetectorSpec) -> dict[str, tuple[int, ...]]:
    """Shape of each of our arrays, by path."""
    abstract = abstract_weights(spec)
    return {
        _text(path): leaf.shape
        for tree in abstract
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch of an array of ours."""
    return shape if len(shape) == 1 else (shape[3], shape[2], *shape[:2])


def from_torch(array: np.ndarray) -> np.ndarray:
    """An array with our axes: kernels from (out, in, height, width) to (height, width, in, out)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def as_weights(ours: Arrays, spec: DetectorSpec) -> Weights:
    """Arrays by path as the trees of a detector's weights."""
    return jax.tree_util.tree_map_with_path(
        # The first key says whether it is a parameter or a statistic.
        lambda path, _: jax.numpy.asarray(np.ascontiguousarray(ours[_text(path[1:])])),
        abstract_weights(spec),
    )


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def adapt_epsilon(ours: Arrays, epsilon: float) -> None:
    """Scale batch norms (in place) that had another epsilon: in use they are exactly the same."""
    own = BatchNorm(1).epsilon
    for path in [path for path in ours if path.endswith(".var")]:
        scale, var = path.removesuffix("var") + "scale", ours[path]
        ours[scale] = ours[scale] * np.sqrt((var + own) / (var + epsilon)).astype(np.float32)


def move_points(ours: Arrays) -> None:
    """Count distances (in place) from a cell's middle instead of its corner.

    Half a stride more to the left and top, less to the right and bottom: exact, in the bias.
    """
    for path in ours:
        if path.startswith("head.box.predict.") and path.endswith(".bias"):
            ours[path] = ours[path] + np.array([0.5, 0.5, -0.5, -0.5], np.float32)


def fold_image_form(ours: Arrays, form: ImageForm) -> None:
    """Let the first convolution (in place) take RGB in 0..1 instead of the images of `form`.

    Exact, but for a mean at the image's border: there the network used to see the mean colour
    beyond the edge, and now sees black.
    """
    first = "backbone.stem.conv" if "backbone.stem.conv.conv.kernel" in ours else FIRST_OF_DEEP
    path = f"{first}.conv.kernel"
    kernel = ours[path]
    height, width, channels, outputs = kernel.shape
    # A focus stem has four pixels of three colours as channels.
    pixels = kernel.reshape(height, width, channels // 3, 3, outputs)
    mean, std = (np.array(values)[:, None] for values in (form.mean, form.std))
    shift = (pixels * (mean / std)).sum((0, 1, 2, 3))
    pixels = pixels * (255 / std)
    if form.bgr:
        pixels = pixels[:, :, :, ::-1]
    ours[path] = pixels.reshape(kernel.shape).astype(np.float32)
    mean_path = f"{first}.norm.mean"
    ours[mean_path] = (ours[mean_path] + shift).astype(np.float32)
