"""What the READMEs promise holds: every command, block of code, flag, path and name in them."""

import ast
import importlib
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import nbformat
import numpy as np
import optuna
import pytest

from flaxyolo import __main__ as door
from flaxyolo.ablation.plan import read_plan
from flaxyolo.config import TrainConfig
from flaxyolo.data.__main__ import AuditFlags, Convert, Show
from flaxyolo.nn import blocks
from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.detector import abstract_weights
from flaxyolo.search.space import load_space
from flaxyolo.spec import BackboneSpec, StageSpec
from flaxyolo.training.loop import train
from tests.nn import test_blocks as contract
from tests.small import tiny_feed, tiny_spec
from tests.tiny_data import ROOT, SIDE, tiny_study

PACKAGE = ROOT / "flaxyolo"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
READMES = ("README.md", "sweeps/README.md", "configs/README.md", "benchmarks/README.md")
NOTEBOOKS = tuple(f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("*.ipynb")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("python", "python3", "flaxyolo", "pip", "pytest", "optuna-dashboard")
FLAG = re.compile(r"(?<!\S)--([a-z][a-z-]*)")
OWN_PATH = re.compile(r"(?:flaxyolo|configs|sweeps|notebooks|benchmarks|tests|\.ci)/[\w./-]*")
FOR_READERS_TO_WRITE = {"sweeps/ghost.py"}
QUICK = {"stats", "data", "evaluate", "export", "report"}
"""Doors whose commands take seconds. Of the others a test reads the flags."""


def text_of(document: str) -> str:
    """A README, or what a notebook says in words."""
    path = ROOT / document
    if path.suffix == ".md":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


class Block(NamedTuple):
    """A fenced block."""

    document: str
    language: str
    code: str


TEXTS = {document: text_of(document) for document in (*READMES, *NOTEBOOKS)}
FENCED = [
    Block(document, language, code)
    for document, text in TEXTS.items()
    for language, code in FENCE.findall(text)
]
SPANS = {
    document: re.findall(r"`([^`\n]+)`", FENCE.sub("", text)) for document, text in TEXTS.items()
}
"""Code in running text."""


def the_block(document: str, language: str, part: str) -> str:
    """The one block with this part."""
    (code,) = (
        block.code
        for block in FENCED
        if (block.document, block.language) == (document, language) and part in block.code
    )
    return code


def commands_of(document: str) -> list[tuple[str, ...]]:
    """The words of every command that a document names, in a block or in running text."""
    lines = [span for span in SPANS[document] if span.split()[0] in PROGRAMS]
    for block in FENCED:
        if (block.document, block.language) == (document, "sh"):
            lines += block.code.replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines)
    return [
        tuple(command)
        for line in words
        for ends, command in itertools.groupby(line, lambda word: word == "&&")
        if not ends
    ]


SHELL = list(dict.fromkeys(words for document in TEXTS for words in commands_of(document)))


def door_of(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """What `flaxyolo` is given by a command; None where it is another program's."""
    match words:
        case ("python", "-m", module, *rest) if module.startswith("flaxyolo."):
            return module.removeprefix("flaxyolo."), *rest
        case ("flaxyolo", *rest):
            return tuple(rest)
    return None


def named(words: tuple[str, ...]) -> str:
    return shlex.join(words)[:60]


DOORS = [words for command in SHELL if (words := door_of(command))]
OTHERS = [command for command in SHELL if not door_of(command)]


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"flaxyolo.{door.MODULES.get(name, name)}")


def flags_of(kind: type) -> set[str]:
    """The flags of a door, without their dashes; a positional argument has a name here too."""
    names = {field.name.replace("_", "-") for field in fields(kind)}
    return names | {f"no-{field.name}" for field in fields(kind) if field.default is True}


def script_flags(path: Path) -> set[str]:
    """Those that a script of benchmarks/ hands to argparse."""
    return set(re.findall(r'add_argument\(\s*"--([a-z-]+)"', path.read_text()))


def definitions(path: Path) -> set[str]:
    """The functions and classes of a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def test_every_readme_is_read_here():
    folders = (path.parent.name for path in ROOT.glob("*/README.md"))
    there = {f"{name}/README.md" for name in folders if not name.startswith(".")}
    assert there | {"README.md"} == set(READMES)


def test_every_block_is_of_a_kind_that_is_tested():
    kinds = [(block.document, block.language) for block in FENCED if block.language != "sh"]
    assert sorted(kinds) == [
        ("README.md", "python"),
        ("README.md", "text"),
        ("configs/README.md", "yaml"),
        *[("sweeps/README.md", "python")] * 4,
    ]


@pytest.mark.parametrize("words", DOORS, ids=named)
def test_a_door_takes_the_command(words, monkeypatch, capsys):
    name, *arguments = words
    if not arguments:
        assert name in door.COMMANDS
        return
    # The flags are read in full; what comes of them is not begun.
    monkeypatch.setattr("flaxyolo.base.cli.run", lambda *command, **settings: 0)
    try:
        status = door.main(words)
    except SystemExit as error:
        status = error.code
    assert status == 0, capsys.readouterr()


@pytest.mark.parametrize("words", OTHERS, ids=named)
def test_a_command_of_another_program_is_one_that_is_there(words):
    match words:
        case (("python" | "PEER_ENV/bin/python"), script, *arguments) if script != "-m":
            check_script(ROOT / script, arguments)
        case ("python", "-m", module, *arguments):
            check_script(ROOT / f"{module.replace('.', '/')}.py", arguments)
        case ("pip", "install", *what):
            for given in re.findall(r"\[([\w,]+)\]", " ".join(what)):
                assert set(given.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
        case ("pip", "wheel", *options):
            assert options == ["--no-deps", "."]
        case ("optuna-dashboard", study):
            assert study.endswith("/study.log")
        case _:
            assert words in (
                ("python3", "-m", "venv", ".venv"),
                (".", ".venv/bin/activate"),
                ("pytest", "-m", "not slow", "-n", "2", "--dist", "loadfile"),
            )


def check_script(path: Path, arguments: list[str]) -> None:
    given = {argument[2:] for argument in arguments if argument.startswith("--")}
    assert given <= script_flags(path)


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """The folder of a finished study that nobody changes, and of its data."""
    base = tiny_study(tmp_path_factory).parents[1]
    return base / "as_made" / "tiny", base / "data"


@pytest.fixture
def clone(study, tmp_path, monkeypatch):
    """A working folder like that of a reader who has swept and trained."""
    for folder in ("configs", "sweeps"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for name in ("STUDY", "x", "digits-8ms"):
        shutil.copytree(study[0], tmp_path / "runs" / name)
    shutil.copytree(study[1], tmp_path / "DIR")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [words for words in DOORS if words[0] in QUICK and len(words) > 1], ids=named
)
def test_a_quick_command_runs(words, clone, capsys, unchecked):
    assert door.main(words) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_the_best_detector_is_loaded_and_called_as_the_readme_says(clone):
    names = {"image": np.zeros((SIDE, SIDE, 3), np.uint8)}
    exec(the_block("README.md", "python", "flaxyolo.load"), names)
    detections = names["detections"]
    assert detections.boxes.shape == (len(detections.scores), 4)
    assert len(detections.labels) == len(detections.scores)


def test_the_plan_is_read_and_fits_its_baseline(tmp_path):
    (tmp_path / "ablations").mkdir()
    shutil.copy(ROOT / "configs" / "yolov8n.yaml", tmp_path)
    path = tmp_path / "ablations" / "plan.yaml"
    path.write_text(the_block("configs/README.md", "yaml", "arms:"))
    assert list(read_plan(path).configs()) == ["baseline", "se-middle", "drop-path"]


def drawn(code: str, path: Path, count: int = 12):
    """Detectors of a space."""
    path.write_text(code)
    suggest = load_space(path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask()) for _ in range(count)]


def assert_they_can_be_built(specs):
    for spec in specs:
        assert abstract_weights(spec).params


def test_the_space_of_attentions_draws_them(tmp_path):
    code = the_block("sweeps/README.md", "python", "attentions=")
    specs = drawn(code, tmp_path / "attentions.py")
    assert_they_can_be_built(specs)
    stages = [stage for spec in specs for stage in spec.backbone.stages]
    assert {stage.block for stage in stages} == {"c2f"}
    assert 3 < len({stage.attention for stage in stages}) <= len(ATTENTIONS)


@pytest.fixture
def ghost(monkeypatch):
    """The block is added as the README says: a class above the table, and a line in it."""
    source = Path(blocks.__file__).read_text()
    above, table = source.split("\nBLOCKS: ")
    entries = table.removesuffix("}\n")
    assert entries != table
    added = the_block("sweeps/README.md", "python", "class Ghost")
    line = the_block("sweeps/README.md", "python", '"ghost": partial')
    changed = ModuleType("blocks_with_ghost")
    exec(f"{above}\n{added}\n\nBLOCKS: {entries}{line}}}\n", changed.__dict__)
    assert set(changed.BLOCKS) == {*blocks.BLOCKS, "ghost"}
    monkeypatch.setitem(blocks.BLOCKS, "ghost", changed.BLOCKS["ghost"])
    return changed


def test_the_added_block_keeps_the_contract_of_blocks(ghost):
    for in_width, width, depth in ((24, 24, 3), (40, 8, 1), (16, 40, 2)):
        contract.test_a_block_keeps_height_and_width_and_puts_out_its_width(
            "ghost", in_width, width, depth
        )
    contract.test_a_block_returns_its_dtype("ghost")
    contract.test_a_deeper_block_has_more_parameters("ghost")
    contract.test_every_parameter_of_a_block_has_a_gradient("ghost")
    contract.test_a_folded_block_is_equal("ghost")
    contract.test_the_shortcuts_of_a_layer_have_its_drop_path("ghost")


def test_a_detector_of_the_added_block_learns(ghost):
    stages = tuple(StageSpec(block="ghost", width=width, depth=1) for width in (8, 16, 16))
    spec = tiny_spec(backbone=BackboneSpec(stem_width=8, stages=stages))
    config = TrainConfig(epochs=1, batch_size=4)
    (epoch,) = train(spec, tiny_feed(8), ("a", "b", "c"), config)
    assert np.isfinite(epoch.loss).all()


def test_the_space_of_the_added_block_draws_it(ghost, tmp_path):
    specs = drawn(the_block("sweeps/README.md", "python", '"ghost")'), tmp_path / "ghost.py")
    assert_they_can_be_built(specs)
    names = {stage.block for spec in specs for stage in spec.backbone.stages}
    assert names == {"c2f", "ghost"}


def test_the_space_of_everything_draws_the_added_block(ghost, tmp_path):
    specs = drawn((ROOT / "sweeps" / "full.py").read_text(), tmp_path / "full.py", 40)
    assert any(stage.block == "ghost" for spec in specs for stage in spec.backbone.stages)


def test_every_flag_in_running_text_is_one():
    known = {flag for name in door.COMMANDS for flag in flags_of(module_of(name).Flags)}
    known |= {flag for kind in (AuditFlags, Convert, Show) for flag in flags_of(kind)}
    known |= {flag for path in (ROOT / "benchmarks").glob("*.py") for flag in script_flags(path)}
    given = {flag for spans in SPANS.values() for span in spans for flag in FLAG.findall(span)}
    # pip's own, by which a wheel of the clone alone is made.
    assert given - known - {"help", "no-deps"} == set()


def test_the_flags_of_a_sweep_are_all_told():
    section = TEXTS["sweeps/README.md"].split("\n## Flags\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `--")]
    told = {flag for row in rows for span in row.split("`") for flag in FLAG.findall(span)}
    assert told == {field.name.replace("_", "-") for field in fields(module_of("sweep").Flags)}


@pytest.mark.parametrize("document", READMES)
def test_every_path_of_the_project_is_there(document):
    code = [*SPANS[document], *(block.code for block in FENCED if block.document == document)]
    paths = {path for part in code for path in OWN_PATH.findall(part)}
    assert [path for path in paths - FOR_READERS_TO_WRITE if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", READMES)
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[document]):
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        # As GitHub makes them: without punctuation.
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
        anchors = {heading.replace(" ", "-") for heading in plain}
        assert not anchor or anchor in anchors, target


def map_lines() -> list[tuple[list[str], str]]:
    """The names of each line inside flaxyolo/ on the map, and what is said of them."""
    lines = the_block("README.md", "text", "flaxyolo/\n").splitlines()
    inside = [line.strip() for line in lines if line.startswith("  ")]
    parts = [line.split("  ", 1) for line in inside]
    return [(names.replace("/", "").split(), said.strip()) for names, said in parts]


def test_the_map_names_every_room_and_door_and_no_other():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    names = [name for line, _ in map_lines() for name in line]
    assert sorted(names) == sorted(rooms | files)
    assert set(map_lines()[0][0]) | {"data"} == set(door.COMMANDS)


def test_the_map_names_the_folders_of_a_room():
    said = {names[0]: text for names, text in map_lines()}
    for path in PACKAGE.glob("*/*/__init__.py"):
        assert f"{path.parent.name}/" in said[path.parents[1].name]


def test_the_map_has_the_order_of_the_contract():
    rules = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (rule["layers"] for rule in rules if rule["type"] == "layers")
    places = {name: place for place, layer in enumerate(layers) for name in layer.split(" | ")}
    order = [places[name] for line, _ in map_lines() for name in line]
    assert order == sorted(order)
    assert set(places) - {"__main__"} == {name for line, _ in map_lines() for name in line}


def test_what_is_to_be_read_is_there_and_short():
    section = TEXTS["README.md"].split("To understand it, read:")[1].split("How to add")[0]
    read = re.findall(r"`([\w/]+\.py)`(?:: ((?:`\w+`(?:, )?)+))?", section)
    assert 5 <= len({path for path, _ in read}) <= 8
    for path, functions in read:
        names = set(re.findall(r"\w+", functions))
        assert names <= definitions(PACKAGE / path), path
        assert len((PACKAGE / path).read_text().splitlines()) < 350, path
    assert len([path for path, functions in read if functions]) == section.count(".py`: `")


def test_functions_named_with_their_file_are_in_it():
    text = "\n".join(TEXTS[document] for document in READMES)
    pairs = re.findall(r"`(\w+)` in `(flaxyolo/[\w/]+\.py)`", text)
    assert len(pairs) >= 3
    for name, path in pairs:
        assert re.search(rf"^(?:def )?{name}\b", (ROOT / path).read_text(), re.MULTILINE), name


def test_continuous_integration_runs_the_command_of_the_readme():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    install, tests = the_block("README.md", "sh", "pytest").strip().split(" && ")
    assert tests == 'pytest -m "not slow" -n 2 --dist loadfile'
    assert lines.count(tests) == 1
    assert lines.count(install.replace("install", "install --quiet")) == 1
    (rest,) = (line for line in lines if line.startswith('pytest -m "slow'))
    assert shlex.split(rest)[2] == "slow and not long"


@pytest.mark.slow
def test_what_is_long_is_slow():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", "not slow", "tests/ablation/test_killed.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    assert "1 deselected" in done.stdout
