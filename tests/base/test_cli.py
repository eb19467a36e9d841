import errno
import logging
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

import flaxyolo
from flaxyolo import __main__ as door
from flaxyolo.base import cli
from flaxyolo.base.errors import InputError


@dataclass(frozen=True)
class Flags:
    config: tyro.conf.Positional[Path]
    budget_ms: float = 8.0
    json: bool = False


def parse(*argv):
    return cli.parse(Flags, argv, prog="prog", description="Does it.")


def raising(error):
    def command():
        raise error

    return command


def chained(outer, cause):
    try:
        try:
            raise cause
        except BaseException as inner:
            raise outer from inner
    except BaseException as error:
        return error


def test_flags_and_arguments_are_read():
    assert parse("a.yaml") == Flags(Path("a.yaml"))
    assert parse("a.yaml", "--budget-ms", "3", "--json") == Flags(Path("a.yaml"), 3.0, True)


@pytest.mark.parametrize(
    "argv", [("a", "--budget-mss", "1"), (), ("a", "--budget-ms", "x"), ("a", "b")]
)
def test_a_wrong_flag_ends_with_2_and_only_on_stderr(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err


def test_bad_input_is_one_line_and_code_2(capsys):
    assert cli.run(raising(InputError("x.yaml: no such key"))) == 2
    assert capsys.readouterr() == ("", "error: x.yaml: no such key\n")


def test_success_is_0_and_says_nothing(capsys):
    assert cli.run(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_an_interrupted_command_says_whether_it_goes_on(capsys):
    assert cli.run(raising(KeyboardInterrupt()), resumes=True) == 130
    assert cli.run(raising(KeyboardInterrupt())) == 130
    first, second = capsys.readouterr().err.splitlines()
    assert first == "interrupted; the same command goes on where it stopped"
    assert second == "interrupted"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/disk/file"),
        chained(RuntimeError("saving failed"), OSError(errno.ENOSPC, "full", "/disk/file")),
        ValueError(
            'RESOURCE_EXHAUSTED: Error writing "/disk/file": '
            "[OS error 28: ENOSPC No space left on device]"
        ),
        ExceptionGroup("tasks", [OSError(errno.ENOSPC, "full", "/disk/file")]),
    ],
    ids=["itself", "as a cause", "as the text of a C++ library", "in a group"],
)
def test_a_full_disk_is_one_line_that_names_the_path(error, capsys):
    assert cli.run(raising(error)) == 2
    assert capsys.readouterr().err == "error: /disk/file: the disk is full; free some space\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_that_names_no_path_is_named_by_the_output_folder(capsys):
    def command():
        with open("/dev/full", "w") as file:
            file.write("x")

    assert cli.run(command, output=Path("runs/x"), resumes=True) == 2
    assert capsys.readouterr().err == (
        "error: runs/x: the disk is full; free some space, then the same command goes on\n"
    )


def test_a_folder_without_permission_is_one_line(capsys):
    assert cli.run(raising(PermissionError(errno.EACCES, "denied", "/root/x"))) == 2
    assert "error: /root/x: permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "gone", "x")]
)
def test_a_fault_of_our_own_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        cli.run(raising(error))


def test_memory_that_runs_out_is_not_taken_for_the_disk():
    assert cli.storage_failure(RuntimeError("RESOURCE_EXHAUSTED: Out of memory")) is None


def test_logs_go_to_stderr_once_and_unwrapped(capsys):
    cli.log_to_stderr()
    cli.log_to_stderr()
    long = "x" * 300
    logging.getLogger("flaxyolo.data").info("%s [b]", long)
    logging.getLogger("flaxyolo.data").warning("careful")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{long} [b]\nwarning: careful\n"


def test_a_reader_that_stops_early_causes_no_traceback(tmp_path):
    script = tmp_path / "talk.py"
    script.write_text(
        "import sys\nfrom flaxyolo.base import cli\n"
        "sys.exit(cli.run(lambda: print('line\\n' * 100_000)))\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(Path(flaxyolo.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, script], stdout=writer, stderr=subprocess.PIPE, env=environment
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_door_lists_the_commands_and_the_version(capsys):
    assert door.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("train", "evaluate", "measure", "sweep"))
    assert door.main(["--version"]) == 0
    assert capsys.readouterr().out == f"flaxyolo {flaxyolo.__version__}\n"


def test_without_a_command_the_help_is_shown_as_an_error(capsys):
    assert door.main([]) == 2
    assert capsys.readouterr().err.startswith("usage: flaxyolo COMMAND")


def test_an_unknown_command_is_one_line_with_a_guess(capsys):
    assert door.main(["evalute"]) == 2
    assert capsys.readouterr().err == (
        "error: expected one of data, stats, preflight, sweep, report, ablate, dashboard, train, "
        "evaluate, predict, export, serve, convert, replay, measure, "
        "got 'evalute'; "
        "did you mean 'evaluate'?\n"
    )


def test_the_door_hands_the_rest_over_and_returns_the_code(capsys):
    assert door.main(["evaluate", "--detections", "nowhere.json"]) == 2
    assert capsys.readouterr().err.startswith("error: expected either CHECKPOINT")


@dataclass(frozen=True)
class Numbers:
    trials: int | None = None
    image_size: int = 64


def test_numbers_of_at_least_one_are_asked_for_by_their_flags():
    cli.least_one(Numbers(), "trials", "image_size")
    cli.least_one(Numbers(trials=1), "trials")
    with pytest.raises(InputError, match=r"^--trials: expected at least 1, got 0$"):
        cli.least_one(Numbers(trials=0), "image_size", "trials")
    with pytest.raises(InputError, match=r"^--image-size: expected at least 1, got -8$"):
        cli.least_one(Numbers(image_size=-8), "trials", "image_size")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b"])
def test_a_folders_name_does_not_lead_out_of_its_folder(name):
    assert cli.folder_name("--study", "digits-8ms") == "digits-8ms"
    with pytest.raises(InputError) as raised:
        cli.folder_name("--study", name)
    assert str(raised.value) == (
        f"--study: expected a name without slashes, got {name!r}; --out names the folder it lies in"
    )


@pytest.mark.parametrize("folder", ["runs/x", "one image ü/best", "it's", "$HOME", "a;b"])
def test_a_printed_command_is_one_that_a_shell_takes(folder):
    line = cli.command_line("evaluate", Path(folder), "--data", "coco:a b", "--epochs", 3)
    assert shlex.split(line)[2:] == [
        *("flaxyolo.evaluate", folder, "--data", "coco:a b", "--epochs", "3")
    ]


def test_a_plain_command_is_printed_without_quotes():
    line = cli.command_line("evaluate", Path("runs/x/best"), "--data", "yolo:a/data.yaml")
    assert line == "python -m flaxyolo.evaluate runs/x/best --data yolo:a/data.yaml"
