"""What a data set may name: its own files, and others only where the user says so."""

import json
import os
from pathlib import Path

import pytest

from benchmarks.sound_data import write_sound
from flaxyolo.base.errors import InputError
from flaxyolo.base.limits import reading
from flaxyolo.data.__main__ import main
from flaxyolo.data.readers.fence import Fence, Outside
from flaxyolo.data.sources import SOURCES, audit_source, read_dataset
from tests.data.coco_folder import write_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def far(tmp_path) -> Path:
    """An image of the right size that is none of the data set's."""
    return write_image(tmp_path / "far" / "far.png", 24, 32)


def sound(root: Path, form: str) -> Path:
    write_sound(root, form)
    return root


def led_out(source: str) -> list[str]:
    """Places of the finding in train, which stops."""
    found = next(one for one in audit_source(source).findings if one.kind == "led_out")
    with pytest.raises(InputError, match=r"lead out of the data set \(--allow-outside reads them"):
        read_dataset(source)
    return list(found.first)


def name_first(root: Path, name: str) -> None:
    """Let the first image of a COCO set be called so."""
    path = root / "annotations" / "instances_train.json"
    data = json.loads(path.read_bytes())
    data["images"][0]["file_name"] = name
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("form", ["../../far/far.png", "{far}", "../images/../../far/far.png"])
def test_a_name_in_coco_that_leads_out_stops(tmp_path, far, form):
    root = sound(tmp_path / "set", "coco")
    name_first(root, form.format(far=far))
    (place,) = led_out(f"coco:{root}")
    assert "image 1" in place
    assert place.endswith(f"far.png, which is {far}") or place.endswith(str(far))
    with reading(None, True):
        data = read_dataset(f"coco:{root}")
    assert os.path.samefile(str(data.train[0].image), far)


def test_a_whole_path_into_the_set_is_fine(tmp_path):
    root = sound(tmp_path / "set", "coco")
    name_first(root, str(root / "images" / "train0.png"))
    assert len(read_dataset(f"coco:{root}").train) == 4


def test_a_name_in_a_list_that_leads_out_stops_but_a_whole_path_does_not(tmp_path, far):
    root = sound(tmp_path / "set", "yolo")
    (root / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: [odd, even]\n")
    names = ["images/train/train0.png", "../far/far.png"]
    (root / "list.txt").write_text("\n".join(names))
    (place,) = led_out(f"yolo:{root}")
    assert place == f"{root}/../far/far.png, which is {far}"
    (far.with_name("far.txt")).write_text("0 0.5 0.5 0.2 0.2")
    with reading(None, True):
        assert len(read_dataset(f"yolo:{root}").train) == 2
    (root / "list.txt").write_text("\n".join([names[0], str(far)]))
    data = read_dataset(f"yolo:{root}")
    assert data.train[1].image == far
    assert data.train[1].boxes[0].tolist() == pytest.approx([12.8, 9.6, 19.2, 14.4])


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_an_image_that_is_a_link_out_stops(tmp_path, far, form):
    root = sound(tmp_path / "set", form)
    image = next(root.rglob("train0.png"))
    image.unlink()
    image.symlink_to(far)
    (place,) = led_out(f"{form}:{root}")
    assert place.endswith(f"which is {far}")


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_links_inside_the_set_and_folders_that_are_links_are_fine(tmp_path, form):
    root = sound(tmp_path / "set", form)
    image = next(root.rglob("train0.png"))
    image.rename(root / "store.png")
    image.symlink_to(root / "store.png")
    top = root / ("JPEGImages" if form == "voc" else "images")
    top.rename(tmp_path / "disk")
    top.symlink_to(tmp_path / "disk")
    assert len(read_dataset(f"{form}:{root}").train) == 4


def test_labels_that_are_links_out_are_not_read_nor_told(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("0 0.123 0.4 0.2 0.2\npassword\n")
    root = sound(tmp_path / "set", "yolo")
    label = root / "labels" / "train" / "train0.txt"
    label.unlink()
    label.symlink_to(secret)
    audit = audit_source(f"yolo:{root}")
    (found,) = audit.stops[:1]
    assert found.kind == "not_numbers"
    assert found.first == (
        f"{label}: cannot read the labels: it leads out of the data set; --allow-outside reads it",
    )
    assert "password" not in json.dumps(audit.to_dict())


def test_an_annotation_of_pascal_that_leads_out_is_not_read(tmp_path):
    root = sound(tmp_path / "set", "voc")
    path = root / "Annotations" / "train0.xml"
    path.rename(tmp_path / "far.xml")
    path.symlink_to(tmp_path / "far.xml")
    with (root / "ImageSets" / "Main" / "val.txt").open("a") as file:
        file.write("\n../../../far.xml")
    audit = audit_source(f"voc:{root}")
    places = [place for found in audit.stops for place in found.first]
    assert any("train0.xml: cannot be read: it leads out of the data set" in one for one in places)
    assert len(SOURCES["voc"](str(root)).train.boxes) == 7


def test_annotations_that_a_repair_has_written_may_name_whole_paths(tmp_path, monkeypatch):
    root = sound(tmp_path / "set", "coco")
    data = json.loads((root / "annotations" / "instances_train.json").read_bytes())
    data["annotations"][0]["bbox"] = [90, 90, 5, 5]
    (root / "annotations" / "instances_train.json").write_text(json.dumps(data))
    copy = tmp_path / "copy"
    assert main(["audit", f"coco:{root}", "--repair", str(copy)]) == 0
    assert len(read_dataset(f"coco:{copy}").train) == 4
    # Of a cache that does not know them, they are as good as anybody's.
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "other"))
    assert len(led_out(f"coco:{copy}")) == 3


def test_the_flag_is_one_of_the_command(tmp_path, far, capsys):
    root = sound(tmp_path / "set", "coco")
    name_first(root, str(far))
    assert main(["audit", f"coco:{root}"]) == 2
    assert "--allow-outside reads them" in capsys.readouterr().err
    assert main(["audit", f"coco:{root}", "--allow-outside"]) == 0


def test_a_step_up_behind_a_link_is_judged_by_where_it_leads(tmp_path, far):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(far.parent)
    fence = Fence([tmp_path / "set"])
    inside = tmp_path / "set" / "link" / ".." / "far" / "far.png"
    assert fence.image(inside) == Outside(inside)
    assert fence.image(tmp_path / "set" / "link" / "far.png") == tmp_path / "set/link/far.png"
    with pytest.raises(OSError, match="it leads out of the data set; --allow-outside reads it"):
        Outside(inside).read()
