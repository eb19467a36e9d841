"""What a sweep hands over to its workers."""

import pickle
from dataclasses import fields

from flaxyolo.search.setting import Task
from flaxyolo.search.space import Ranges


def handed_over(state):
    """A task after its way through a file, with this state."""
    task = object.__new__(Task)
    task.__dict__.update(state)
    return pickle.loads(pickle.dumps(task))


def test_a_task_of_before_ranges_were_stored_is_read():
    state = {field.name: None for field in fields(Task)}
    now = handed_over(state | {"ranges": Ranges((64,), (8, 8, 8))})
    assert now.ranges == Ranges((64,), (8, 8, 8))
    del state["ranges"]
    before = handed_over(state | {"image_sizes": (128, 160)})
    assert before.ranges == Ranges((128, 160))
    assert before.__dict__.keys() == now.__dict__.keys()
