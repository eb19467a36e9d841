import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.readers import backdrops
from flaxyolo.data.readers.backdrops import TEXTURES, backdrop, crop, pictures, shaded


def test_the_pictures_of_the_packages_are_there():
    assert [picture.shape for picture in pictures()] == [
        (427, 640, 3), (427, 640, 3), (600, 512, 3), (343, 402, 3)
    ]  # fmt: skip
    assert all(picture.dtype == np.uint8 and picture.std() > 20 for picture in pictures())


def test_without_matplotlibs_sample_data_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(backdrops, "get_sample_data", lambda name, asfileobj: tmp_path / name)
    with pytest.raises(InputError, match=r"grace_hopper\.jpg: expected matplotlib's sample data"):
        pictures.__wrapped__()


def test_a_crop_keeps_to_the_columns_of_its_split(monkeypatch):
    picture = np.zeros((150, 400, 3), np.uint8)
    picture[:, 250:] = 200
    monkeypatch.setattr(backdrops, "pictures", lambda: (picture,))
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert crop(rng, 64, (0.0, 0.625)).max() == 0
        assert crop(rng, 64, (0.625, 1.0)).min() >= 200 * 160 // 256


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_is_a_picture_that_the_seed_decides(texture):
    one, again, other = (texture(np.random.default_rng(seed), 64) for seed in (0, 0, 1))
    assert one.shape == (64, 64, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_slope_to_the_upper_left_is_light():
    rise = np.tile(np.arange(40), (40, 1))
    left, right = shaded(rise), shaded(rise[:, ::-1])
    assert left.shape == (39, 39, 3)
    assert left.astype(int).sum() > right.astype(int).sum()


def test_backdrops_are_of_every_kind():
    rng = np.random.default_rng(0)
    drawn = np.stack([backdrop(rng, 64, (0.0, 1.0)) for _ in range(60)])
    spread = drawn.std((1, 2, 3))
    assert drawn.dtype == np.uint8
    assert spread.min() < 15 < 40 < spread.max()
