"""One door to all commands: `flaxyolo sweep ...` is `python -m flaxyolo.sweep ...`."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from flaxyolo import __version__


def main(argv: Sequence[str] | None = None) -> int | None:
    """Hand over to the command that the first argument names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"flaxyolo {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"error: expected one of {', '.join(COMMANDS)}, got {name!r}{hint}", file=sys.stderr)
        return 2
    # Only the command that runs is imported: the others may be slow to load.
    return importlib.import_module(f"flaxyolo.{MODULES.get(name, name)}").main(rest)


def usage() -> str:
    """The help text: a line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {line}" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            "usage: flaxyolo COMMAND ...",
            "",
            *lines,
            "",
            "flaxyolo COMMAND --help lists the flags of a command.",
        ]
    )


MODULES = {"data": "data.__main__"}

COMMANDS = {
    "data": "show, audit and convert data sets",
    "stats": "what the images and boxes are like, and what that advises",
    "preflight": "check data, transforms, losses and gradients before a long run",
    "sweep": "search for the best detector under a latency and memory budget",
    "report": "the page of a study: one HTML file that needs no network",
    "ablate": "change one variable at a time, with paired seeds, and say what came of it",
    "dashboard": "the study of a sweep in a browser",
    "train": "train one detector from a config",
    "evaluate": "average precision of a checkpoint, or of a COCO result file",
    "predict": "what a detector finds in images, folders and videos, as pictures and files",
    "export": "write a detector as ONNX, OpenVINO or StableHLO, for programs that run it",
    "serve": "a detector over HTTP, with a page to drop an image on",
    "convert": "turn a PyTorch state dict of a known network into a checkpoint",
    "replay": "the search on a table of known results, and its regret",
    "measure": "latency, memory, parameters and GFLOPs of a config or checkpoint",
}

if __name__ == "__main__":
    sys.exit(main())
