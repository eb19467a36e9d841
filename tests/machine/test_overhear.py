import os

from flaxyolo.machine.overhear import overheard, pass_on


def test_what_is_written_to_stderr_is_held_back_and_told_once(capfd):
    with overheard() as said:
        os.write(2, b"a\n")
        assert said() == "a\n"
        os.write(2, b"b\xff\n")
        assert said() == "b\ufffd\n"
        assert said() == ""
    os.write(2, b"c\n")
    pass_on("d\n")
    pass_on("")
    assert capfd.readouterr().err == "c\nd\n"


def test_a_process_without_stderr_says_nothing():
    kept = os.dup(2)
    try:
        os.close(2)
        with overheard() as said:
            assert said() == ""
    finally:
        os.dup2(kept, 2)
        os.close(kept)
