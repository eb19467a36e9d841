"""A file in COCO form: its three lists, ids and classes, checked."""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import read_json
from flaxyolo.base.words import one_line, shortened, shown
from flaxyolo.data.readers.fence import is_vouched_for
from flaxyolo.data.readers.json_columns import column, load

log = logging.getLogger(__name__)

LIMIT = 2**53
"""Ids below it are exact in float64, in which scores are worked out."""

LONGEST = 4096
"""Letters of a text, such as the name of a file or of a class."""

LARGE = 64 << 20
"""Bytes of a file that takes more than a second."""

NUMBER = re.compile(r"[0-9]{1,15}")
"""A text that may be an id as it is."""
Id = int | str

LISTS = ("images", "annotations", "categories")
NOTHING = ("background", "_background_", "__background__", "__ignore__")
"""Classes that are none, where no box has them."""


class AnnotationFile(NamedTuple):
    """A parsed COCO file, and its path for messages."""

    path: Path
    digest: bytes
    data: dict[str, list[Any]]
    doubled: list[dict[str, Any]]
    """Objects that say a key twice."""
    info: Any
    """What the file says of itself, unchecked."""
    ours: bool = False
    """Whether our own `--repair` has written it, with whole paths."""

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """Those that are objects, an empty one instead of any other."""
        said = self.data["annotations"]
        whole = set(map(type, said)) <= {dict}
        return said if whole else [one if isinstance(one, dict) else {} for one in said]


def parse(path: Path) -> AnnotationFile:
    """The three lists of a file, and which of its objects say a key twice."""
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read the annotations: {error.strerror}") from None
    if len(content) > LARGE:
        log.info("%s: reading %d MB of annotations", path, len(content) >> 20)
    doubled: list[dict[str, Any]] = []

    try:
        data = load(content, doubled)
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected JSON in UTF-8, got other bytes") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {one_line(shortened(str(error)))}") from None
    for key in LISTS:
        records = data.get(key) if isinstance(data, dict) else None
        if not isinstance(records, list):
            found = shown(list(data)) if isinstance(data, dict) else type(data).__name__
            raise InputError(
                f"{path}: not COCO: expected an object with the lists {', '.join(LISTS)}; "
                f"{key!r} is not a list in it (found {found})"
            )
    if any(record is data for record in doubled):
        raise InputError(
            f"{path}: expected each key once, but one of {shown(list(data))} is there twice"
        )
    digest = hashlib.sha256(content)
    ours = is_vouched_for(digest.hexdigest())
    file = AnnotationFile(path, digest.digest(), data, doubled, data.get("info"), ours)
    twice = {id(record) for record in doubled}
    for key in ("images", "categories"):
        for index, record in enumerate(data[key]):
            where = f"{path}: {key}[{index}]"
            if not isinstance(record, dict):
                raise InputError(f"{where}: expected an object, got {shown(record)}")
            if id(record) in twice:
                raise InputError(f"{where}: expected each key once, got one twice: {shown(record)}")
        _check_ids(data[key], f"{path}: {key}")
    return file


def classes(files: dict[str, AnnotationFile]) -> tuple[dict[Id, str], list[str]]:
    """Names by id, of all files, and what is listed as a class but is none."""
    categories = {split: _categories(file) for split, file in files.items()}
    _check_same_categories(files, categories)
    names = {key: name for split in categories.values() for key, name in split.items()}
    used = {
        key for file in files.values() for key in _hashable(column(file.annotations, "category_id"))
    }
    parents = {
        record["id"]: record.get("supercategory")
        for file in files.values() for record in file.data["categories"]
    }  # fmt: skip
    free = [key for key in names if key not in used]
    left_out = [
        key for key in free
        if names[key].lower() in NOTHING or _is_root(key, names, parents)
    ]  # fmt: skip
    if len(left_out) == len(names):
        left_out = []
    path = files["train"].path
    told = [f"{path}: category {shown(key)}: {shown(names[key])}" for key in left_out]
    return {key: name for key, name in names.items() if key not in left_out}, told


def _is_root(key: Id, names: dict[Id, str], parents: dict[Id, object]) -> bool:
    """Whether a class is what all others are put under, as Roboflow writes it."""
    others = [parents[other] for other in names if other != key]
    own = parents[key] in (None, "", "none", names[key])
    return own and bool(others) and all(parent == names[key] for parent in others)


def _hashable(values: list[Any]) -> set[Any]:
    try:
        return set(values)
    except TypeError:
        return {value for value in values if isinstance(value, int | str)}


def numbered(ids: Sequence[Id]) -> dict[Id, int]:
    """A number for each id: itself, the number that a text says, or its place from 1."""
    texts = [one for one in ids if isinstance(one, str)]
    if not texts:
        return {one: int(one) for one in ids}
    said: dict[Id, int] = {one: int(one) for one in texts if NUMBER.fullmatch(one)}
    if len(set(said.values())) == len(set(ids)):
        return said
    return {one: place for place, one in enumerate(dict.fromkeys(ids), start=1)}


def _categories(file: AnnotationFile) -> dict[Id, str]:
    """Names by id."""
    if not file.data["categories"]:
        raise InputError(f"{file.path}: expected at least one category, got none")
    names: dict[Id, str] = {}
    for index, record in enumerate(file.data["categories"]):
        if record["id"] in names:
            raise InputError(
                f"{file.path}: categories[{index}]: id {shown(record['id'])} is used twice in "
                "categories"
            )
        where = f"{file.path}: category {shortened(str(record['id']))}"
        names[record["id"]] = text_of(record, "name", where)
    return names


def _check_same_categories(
    files: dict[str, AnnotationFile], categories: dict[str, dict[Id, str]]
) -> None:
    """A category may be in one file only, but not be two classes."""
    if "val" not in files:
        return
    train, val = categories["train"], categories["val"]
    if len({type(category) for category in train.keys() | val.keys()}) > 1:
        raise InputError(
            f"{files['val'].path}: expected ids of categories like those of "
            f"{files['train'].path}, got texts in one and numbers in the other"
        )
    there = {name: category for category, name in train.items()}
    for category, name in val.items():
        twin = there.get(name, category)
        if train.get(category, name) != name or (category not in train and twin != category):
            raise InputError(
                f"{files['val'].path}: expected the categories of {files['train'].path}; "
                f"category {category} is {shown(name)} here and "
                f"{shown(train.get(category, 'missing'))} there"
            )


def _check_ids(records: list[dict[str, Any]], where: str) -> None:
    """Integers or, in all records of a list, texts."""
    texts = all(isinstance(record.get("id"), str) for record in records)
    for index, record in enumerate(records):
        value = record.get("id")
        if texts:
            text_of(record, "id", f"{where}[{index}]")
        elif type(value) is not int or abs(value) >= LIMIT:  # True and 1.0 are no ids
            raise InputError(
                f"{where}[{index}]: expected an integer 'id' below 2**53, got {shown(value)}"
            )


def text_of(record: dict[str, Any], key: str, where: str) -> str:
    """A text of a record; InputError where it is none, empty, too long, or no whole one."""
    value = record.get(key)
    if isinstance(value, str) and value and "\0" not in value and _is_whole(value):
        if len(value) <= LONGEST:
            return value
        raise InputError(
            f"{where}: expected at most {LONGEST:,} letters as {key!r}, got {len(value):,}"
        )
    raise InputError(f"{where}: expected a text as {key!r}, got {shown(value)}")


def _is_whole(text: str) -> bool:
    """Whether it has no half characters, which no file can be named by."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
