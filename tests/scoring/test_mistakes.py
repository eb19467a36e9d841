"""The worst errors as pictures."""

import base64
import json

import cv2
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.diagnosis import diagnose
from flaxyolo.scoring.error_kinds import KINDS
from flaxyolo.scoring.mistakes import FOUND, SIDE, mistakes, mistakes_from
from tests.scoring.judged import judged
from tests.scoring.test_error_charts import FOUND as ROWS
from tests.scoring.test_error_charts import OBJECTS, examples
from tests.scoring.test_error_kinds import rows_of, truth_of


@pytest.fixture
def shown():
    return mistakes(diagnose(*judged(truth_of(*OBJECTS), rows_of(*ROWS))), examples(1, 2), each=1)


def test_each_kind_has_its_worst_with_a_sentence_and_a_picture(shown):
    assert [one.kind for one in shown] == list(KINDS)
    assert shown[0].where == "image 1"
    assert shown[0].text == "found dog (score 0.90): is cat, IoU 1.00"
    for one in shown:
        content = np.frombuffer(base64.b64decode(one.jpeg), np.uint8)
        picture = cv2.imdecode(content, cv2.IMREAD_COLOR)
        assert max(picture.shape) == SIDE
        orange = (abs(picture.astype(int) - FOUND[::-1]).max(-1) < 60).sum()
        # What was missed has no box of a detection.
        assert (orange > 20) == (one.kind != "missed")


def test_they_are_read_back_as_they_were(shown):
    assert mistakes_from(json.loads(json.dumps([one.to_dict() for one in shown]))) == shown
    with pytest.raises(InputError, match=r"^here: expected a list of errors, got a dict"):
        mistakes_from({}, "here")
    with pytest.raises(InputError, match=r"^here: 0: kind: missing"):
        mistakes_from([{}], "here")
