"""The image that detections are about, as long as it is at hand."""

import os
import weakref
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.errors import InputError
from flaxyolo.base.pixels import rgb_pixels


class Picture:
    """An image by the name of its file, or what the caller still holds of it.

    An array or a PIL image is not kept alive: detections of a long video would hold all of it.
    """

    def __init__(self, image: Any):
        self._name = image if isinstance(image, str | os.PathLike) else None
        self._held = None
        if self._name is None:
            try:
                self._held = weakref.ref(image)
            except TypeError:  # nested lists
                self._held = None

    def pixels(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """Its pixels in RGB, turned as they were; None where it is gone."""
        image = self._name if self._held is None else self._held()
        try:
            return None if image is None else rgb_pixels(image)
        except InputError:  # the file was removed or replaced meanwhile
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_held": None}
