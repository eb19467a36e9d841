import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from flaxyolo.data.readers.outlines import FACES, OUTLINES, UPRIGHT, handwritten, printed


def filled(outline, size=200):
    """The outline as a mask of about that size."""
    low = np.min([polygon.min(0) for polygon in outline], 0)
    scale = size / (np.max([polygon.max(0) for polygon in outline], 0) - low).max()
    mask = np.zeros((size + 1, size + 1), np.uint8)
    cv2.fillPoly(mask, [np.round((p - low) * scale).astype(np.int32) for p in outline], 1)
    return mask


def holes(mask):
    """Parts of the background inside."""
    count, _ = cv2.connectedComponents(1 - np.pad(mask, 1), connectivity=4)
    return count - 2


@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_is_of_finite_polygons_and_has_an_area(name):
    shares = []
    for seed in range(20):
        outline, again = (OUTLINES[name](np.random.default_rng(seed)) for _ in range(2))
        for polygon, other in zip(outline, again, strict=True):
            assert polygon.ndim == 2
            assert len(polygon) >= 3
            assert np.isfinite(polygon).all()
            np.testing.assert_array_equal(polygon, other)
        shares.append(filled(outline).mean())
    assert min(shares) > 0.02
    assert len(set(shares)) > 5, "every class has many forms"


def test_what_has_a_hole_shows_the_background_in_it():
    rng = np.random.default_rng(0)
    assert holes(filled(OUTLINES["ring"](rng))) == 1
    assert holes(filled(OUTLINES["disk"](rng))) == 0
    for face in FACES:
        assert [holes(filled(printed(face, text))) for text in "A8T"] == [1, 2, 0]


def test_letters_stand_upright_with_y_downwards():
    mask = filled(printed("DejaVuSans-Bold", "T"))
    assert mask[:20].sum() > 3 * mask[-90:-70].sum()
    assert set(UPRIGHT) < set(OUTLINES)


def test_a_handwritten_digit_is_followed_along_its_ink():
    glyphs, targets = load_digits(return_X_y=True)
    zeros = [glyph.reshape(8, 8) for glyph, target in zip(glyphs, targets, strict=True)
             if target == 0]  # fmt: skip
    assert np.mean([holes(filled(handwritten(glyph))) == 1 for glyph in zeros[:50]]) > 0.8
    for glyph in glyphs[:200].reshape(-1, 8, 8):
        outline = handwritten(glyph)
        points = np.concatenate(outline) / 8 - 1
        rows, columns = np.nonzero(glyph > 8)
        assert abs(points[:, 0].mean() - columns.mean() - 0.5) < 1.5
        assert abs(points[:, 1].mean() - rows.mean() - 0.5) < 1.5
