import json

import numpy as np
from rich.console import Console

from flaxyolo.scoring import diagnosis
from tests.scoring.judged import judged
from tests.scoring.test_error_kinds import AWAY, CAT, DOG, WHOLE, rows_of, truth_of

TRUTH = truth_of((1, CAT, WHOLE), (2, DOG, WHOLE))
ROWS = rows_of((1, DOG, WHOLE, 0.9), (2, DOG, WHOLE, 0.8), (2, DOG, AWAY, 0.3))


def shown(*things):
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        for thing in things:
            console.print(thing)
    return capture.get()


def test_a_summary_is_plain_and_holds_all_three():
    told = diagnosis.diagnose(*judged(TRUTH, ROWS)).to_dict()
    assert tuple(told) == ("errors", "confusion", "calibration")
    assert json.loads(json.dumps(told)) == told
    assert told["errors"]["kinds"]["classification"]["count"] == 1
    assert told["confusion"]["matrix"] == [[0, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert told["calibration"]["detections"] == 3


def test_the_whole_matrix_up_to_twenty_classes_and_pairs_beyond():
    few = diagnosis.diagnose(*judged(TRUTH, ROWS)).confusion
    assert "background" in shown(diagnosis.confusion_table(few))
    names = tuple(f"class {index}" for index in range(21))
    truth = truth_of((1, CAT, WHOLE), (2, DOG, WHOLE), classes=names)
    many = diagnosis.diagnose(*judged(truth, ROWS)).confusion
    table = shown(diagnosis.confusion_table(many))
    assert "background" not in table
    assert "100.0%" in table
    assert "the 1 most confused" in diagnosis.confusion_title(many)
    assert "no class is confused" in diagnosis.confusion_title(
        diagnosis.diagnose(*judged(truth, np.zeros((0, 7)))).confusion
    )


def test_a_different_ap_is_explained_and_an_equal_one_is_not():
    errors = diagnosis.diagnose(*judged(TRUTH, ROWS)).errors
    assert "COCO's" not in diagnosis.note(errors, errors.map_50)
    assert "COCO's mAP50 is 0.9000" in diagnosis.note(errors, 0.9)
    empty = diagnosis.diagnose(*judged(truth_of(), ROWS)).errors
    assert "no object is annotated" in diagnosis.note(empty, None)
    assert "n/a" in shown(diagnosis.error_table(empty))
