"""A detector is called on one image or on several, in any form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flaxyolo.nn import detector as network
from flaxyolo.nn.detector import TrainedDetector, detect, initial_weights
from tests.small import tiny_spec


def noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def abc():
    spec = tiny_spec()
    return TrainedDetector(spec, initial_weights(spec, 0), ("a", "b", "c"))


def same(one, other):
    # Another batch is another program: the last bits differ.
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_several_images_of_any_form_and_size_give_a_list_in_order(abc, tmp_path):
    rgb = noise(1, 80)[0]
    grey, alpha = rgb[:40, :, 0], np.dstack([rgb, rgb[..., :1]])
    pil, path = Image.fromarray(rgb[:30]), tmp_path / "a.png"
    Image.fromarray(rgb[:, :50]).save(path)
    images = [rgb, grey, alpha, pil, path, str(path)]
    found = abc(images, min_score=0.0)
    assert isinstance(found, list)
    for one, image in zip(found, images, strict=True):
        same(one, abc(image, min_score=0.0))
        assert one.class_names == ("a", "b", "c")
        assert not one.image.any()
    assert [len(abc(kind, min_score=0.0)) for kind in (tuple(images), noise(3, 64))] == [6, 3]
    assert abc([]) == []


def test_numbers_in_lists_and_rows_of_an_image_are_one_image(abc):
    rgb = noise(1, 24)[0]
    expected = abc(rgb, min_score=0.0)
    for form in (rgb.tolist(), list(rgb)):
        same(abc(form, min_score=0.0), expected)


@pytest.mark.parametrize("fast", [False, True])
def test_few_sizes_of_batches_are_compiled(abc, monkeypatch, fast):
    seen = []

    def counted(spec, fused, images):
        seen.append(len(images))
        return detect(spec, fused, images)

    monkeypatch.setattr(network, "detect", counted)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if fast else "cpu")
    # The processor is the one there is, and computes as ever.
    monkeypatch.setattr(network, "compute_dtype", lambda: jnp.float32)
    for count in (7, 8):
        seen.clear()
        found = abc(list(noise(count, 64)), min_score=0.0)
        assert seen == ([8] if fast else [1] * count)
        assert len(found) == count
    assert [network.batch_size_for(count) for count in (0, 1, 2, 3, 16, 17, 500, 501)] == (
        [1, 1, 2, 4, 16, 16, 16, 16] if fast else [1, 1, 1, 1, 1, 1, 1, 16]
    )


def test_images_are_read_as_they_are_needed(abc, monkeypatch):
    read = []

    def images():
        for number in range(5):
            read.append(number)
            yield noise(1, 64)[0]

    found = abc.each(images(), batch_size=1)
    next(found)
    assert read == [0]
    assert len(list(found)) == 4


def test_detections_show_the_picture_that_is_still_held(abc, tmp_path):
    image = noise(1, 64)[0]
    held, gone = abc(image, min_score=0.0), abc(noise(1, 64)[0], min_score=0.0)
    assert "<img" in held._repr_html_()
    assert held.plot().size == (64, 64)
    assert "<img" not in gone._repr_html_()
    with pytest.raises(ValueError, match=r"no longer at hand: give it, as .plot\(image\)"):
        gone.plot()
