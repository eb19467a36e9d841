"""What TensorBoard's event files hold."""

import struct

import pytest


def events(folder):
    """All events of a folder's files, in order; a record is a length, a checksum, the bytes of the
    event, and a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack("<Q", content[place : place + 8])
            found.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return found


def scalars(found):
    return [
        (value.tag, event.step, pytest.approx(value.simple_value))
        for event in found
        for value in event.summary.value
        if value.HasField("simple_value")
    ]
