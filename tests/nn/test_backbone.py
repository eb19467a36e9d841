"""The backbone gives the last output at each stride; a stage is its parts in order."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.backbone import Backbone, Stage
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.regularize import randomness
from flaxyolo.nn.stem import STEMS, ConvStem
from flaxyolo.spec import STEM_STRIDES, BackboneSpec, StageSpec

PLAIN = StageSpec(block="plain", width=16, depth=1)


def backbone(spec, norm="batch"):
    return Backbone(spec, conv=Layers(norm), rng=np.random.default_rng(0))


def spec_of(*stages, **more):
    return BackboneSpec(stem_width=8, stages=stages, **more)


def shapes(spec, size=64):
    out = nnx.eval_shape(lambda: backbone(spec)(jnp.zeros((2, size, size, 3))))
    return {level: feature.shape for level, feature in out.items()}


def test_a_level_is_the_last_output_at_its_stride():
    wide = replace(PLAIN, width=24, stride=1)
    spec = spec_of(PLAIN, PLAIN, wide, replace(PLAIN, width=32), replace(PLAIN, width=40))
    expected = {2: 16, 3: 24, 4: 32, 5: 40}
    assert spec.level_widths == expected
    assert shapes(spec) == {
        level: (2, 64 >> level, 64 >> level, width) for level, width in expected.items()
    }


def test_stages_at_stride_2_belong_to_no_level():
    still = replace(PLAIN, stride=1)
    assert set(shapes(spec_of(still, PLAIN, PLAIN))) == {2, 3}


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_context_layer_is_in_the_last_stage_on_its_side_of_the_block(place):
    last = replace(PLAIN, width=32, down_width=16)
    network = backbone(spec_of(PLAIN, PLAIN, last, context="sppf", context_place=place))
    kinds = [(type(s.before).__name__, type(s.after).__name__) for s in network.stages]
    assert kinds[:2] == [("NoContext", "NoContext")] * 2
    assert kinds[2] == (("SPPF", "NoContext") if place == "before" else ("NoContext", "SPPF"))
    width = 16 if place == "before" else 32
    assert getattr(network.stages[2], place).merge.conv.kernel.shape[-1] == width


def test_a_stage_is_transition_block_noise_and_attention_in_order():
    spec = replace(PLAIN, depth=2, attention="se", down_width=24)
    stage = Stage(
        spec,
        8,
        before="sppf",
        drop_block=0.2,
        spatial_dropout=0.3,
        conv=Layers(),
        rng=np.random.default_rng(0),
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 8)), jnp.float32)
    noisy = nnx.view(stage, deterministic=False, raise_if_not_found=False)
    with randomness(jax.random.key(0)):
        got = noisy(x)
    y = stage.block(stage.before(stage.downsample(x)))
    assert (y.shape, stage.downsample(x).shape[-1]) == ((2, 4, 4, 16), 24)
    with randomness(jax.random.key(0)):
        y = noisy.spatial_dropout(noisy.drop_block(y))
    np.testing.assert_allclose(got, stage.attention(y), rtol=1e-5, atol=1e-6)
    assert np.abs(got - stage(x)).max() > 0


def test_a_wrong_name_says_what_it_is_the_name_of():
    for field in ("block", "attention", "downsample"):
        with pytest.raises(ValueError, match=f"{field} must be one of"):
            backbone(spec_of(PLAIN, PLAIN, replace(PLAIN, **{field: "wrong"})))
    with pytest.raises(ValueError, match="context must be one of"):
        backbone(spec_of(PLAIN, PLAIN, PLAIN, context="wrong"))
    with pytest.raises(ValueError, match=r"stem must be one of .* \(did you mean 'conv3'\?\)"):
        backbone(spec_of(PLAIN, PLAIN, PLAIN, stem="convv3"))


def test_a_new_stem_is_one_line_and_another_stride_than_two_a_second(monkeypatch):
    monkeypatch.setitem(STEMS, "wide", partial(ConvStem, kernel=5))
    assert shapes(spec_of(PLAIN, PLAIN, PLAIN, stem="wide"))[4] == (2, 4, 4, 16)
    monkeypatch.setitem(STEMS, "coarse", partial(ConvStem, kernel=8, stride=8))
    still = replace(PLAIN, stride=1)
    with pytest.raises(ValueError, match="gives 8 cells for 64 pixels, expected a stride of 2; "):
        shapes(spec_of(still, still, still, stem="coarse"))
    monkeypatch.setitem(STEM_STRIDES, "coarse", 8)
    assert shapes(spec_of(still, still, still, stem="coarse"))[3] == (2, 8, 8, 16)
