"""Colour of a training image."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxyolo.config import Augmentation


def jitter(
    draws: Float[Array, "3"], image: Float[Array, "s s 3"], strengths: Augmentation
) -> Float[Array, "s s 3"]:
    """Scale hue, saturation and value by random gains around 1, as YOLOv5 does."""
    spread = jnp.array([strengths.hue, strengths.saturation, strengths.value])
    gains = 1 + spread * (2 * draws - 1)
    red, green, blue = (image[..., channel] for channel in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    by_chroma = 1 / jnp.where(chroma > 0, chroma, 1)
    hue = jnp.where(  # in sixths of the circle
        value == red,
        (green - blue) * by_chroma,
        jnp.where(value == green, (blue - red) * by_chroma + 2, (red - green) * by_chroma + 4),
    )
    hue = jnp.where(hue < 0, hue + 6, hue) * gains[0]
    saturation = jnp.minimum(chroma / jnp.where(value > 0, value, 1) * gains[1], 1)
    value = jnp.minimum(value * gains[2], 1)

    def channel(phase):
        turn = (hue + phase) * (1 / 6)
        turn = 6 * (turn - jnp.floor(turn))
        return value * (1 - saturation * jnp.clip(jnp.minimum(turn, 4 - turn), 0, 1))

    return jnp.stack([channel(5), channel(3), channel(1)], -1)
