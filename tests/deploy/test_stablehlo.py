"""A StableHLO program finds what the detector finds, with JAX alone."""

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.deploy.stablehlo import PLATFORMS, read_stablehlo, write_stablehlo
from flaxyolo.nn.detector import detect
from tests.deploy.pictures import photographs
from tests.entries import lively, small


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, None])
def test_it_finds_what_detect_finds(tmp_path, batch, unchecked):
    made, (_, images) = lively(small()), photographs(64)
    program = read_stablehlo(write_stablehlo(made, tmp_path / "model.stablehlo", batch))
    assert program.platforms == PLATFORMS
    ours = detect(made.spec, made.fused, images)
    for mine, theirs in zip(ours, program.call(images), strict=True):
        np.testing.assert_allclose(np.asarray(mine, float), np.asarray(theirs, float), atol=1e-3)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "model.stablehlo"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected a serialized StableHLO program"):
        read_stablehlo(path)
    with pytest.raises(InputError, match="cannot read the program"):
        read_stablehlo(tmp_path / "other")
