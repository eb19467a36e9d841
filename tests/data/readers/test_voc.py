import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.readers import voc
from flaxyolo.data.readers.voc import read_voc
from flaxyolo.data.sources import read_dataset

DOG = ("dog", (1, 1, 20, 10), 0)
CAT = ("cat", (5, 3, 40, 20), 1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))


def page(*things, filename="x.jpg", database="The VOC2007 Database", size=(40, 20)) -> str:
    objects = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
        "<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax>"
        "</bndbox></part>"
        f"<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in things
    )
    return (
        f"<annotation><folder>VOC2007</folder><filename>{filename}</filename>"
        f"<source><database>{database}</database></source><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def picture(path: Path) -> None:
    """40 x 20 pixels, unlike those of any other name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = sum(str(path).encode()) % 251
    cv2.imwrite(str(path), np.full((20, 40, 3), grey, np.uint8))


def write_kit(root: Path, pages: dict[str, str], splits: dict[str, str]) -> Path:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for stem, text in pages.items():
        (root / "Annotations" / f"{stem}.xml").write_text(text)
        picture(root / "JPEGImages" / f"{stem}.jpg")
    for name, text in splits.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


def kit(root: Path, **splits: str) -> Path:
    pages = {"000007": page(DOG, CAT), "000005": page(), "000009": page(DOG)}
    return write_kit(root, pages, splits or {"train": "000007\n000005\n", "val": "000009\n"})


def plain(root: Path, pages: dict[str, str]) -> Path:
    for name, text in pages.items():
        picture((root / name).with_suffix(".png"))
        (root / name).with_suffix(".xml").write_text(text)
    return root


def names(records) -> list[str]:
    return [listed.image.name for listed in records.images]


def asides(records) -> dict[str, list[str]]:
    return {aside.kind: [Path(place).name for place in aside.places] for aside in records.asides}


def error_of(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_voc(str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pascals_own_folder_is_read_with_its_splits_and_pixels_from_1(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = read_voc(str(kit(tmp_path / "VOC2007")))
    assert source.class_names == ("cat", "dog")
    assert source.category_ids == (1, 2)
    train, val = source.train, source.val
    assert val is not None
    assert [listed.image.name for listed in train.images] == ["000007.jpg", "000005.jpg"]
    assert [listed.image_id for listed in (*train.images, *val.images)] == [1, 2, 3]
    assert (train.images[0].height, train.images[0].width) == (20, 40)
    assert train.boxes.tolist() == [[0, 0, 20, 10], [4, 2, 40, 20]]
    assert train.labels.tolist() == [1, 0]
    assert train.crowd.tolist() == [False, True]
    assert np.isnan(train.areas).all()
    assert "Pascal's coordinates: the first pixel is 1" in caplog.text
    place = tmp_path / "VOC2007" / "Annotations" / "000007.xml"
    assert train.where(1) == f"{place}: object 2: 'cat', xmin ymin xmax ymax [5, 3, 40, 20]"


def test_the_audit_finds_nothing_to_mend_in_it(tmp_path):
    dataset = read_dataset(f"voc:{kit(tmp_path)}")
    assert {finding.kind for finding in dataset.audit.findings} == {"crowd", "empty"}
    assert dataset.train[0].areas.tolist() == [200, 36 * 18]


def test_the_folder_above_is_enough_if_there_is_one_set_in_it(tmp_path):
    inner = kit(tmp_path / "VOCdevkit" / "VOC2007")
    assert len(read_voc(str(tmp_path)).train.images) == 2
    assert len(read_voc(str(tmp_path / "VOCdevkit")).train.images) == 2
    kit(tmp_path / "VOCdevkit" / "VOC2012")
    assert f"expected one VOC set, found 2; name voc:{inner} or voc:" in error_of(tmp_path)


def test_trainval_alone_has_no_validation_split(tmp_path):
    source = read_voc(str(kit(tmp_path, trainval="000009  1\n000007 -1\n000005  0\n")))
    assert source.val is None
    assert [listed.image.stem for listed in source.train.images] == ["000009", "000007", "000005"]


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_folders_of_xml_beside_images_count_from_0(tmp_path, caplog, validation):
    caplog.set_level(logging.INFO)
    pages = {"train/b": page(DOG, database="Unknown"), "train/a": page(CAT, database=""),
             f"{validation}/c": page(CAT, database="roboflow.com")}  # fmt: skip
    source = read_voc(str(plain(tmp_path, pages)))
    assert [listed.image.name for listed in source.train.images] == ["a.png", "b.png"]
    assert source.train.boxes.tolist() == [[5, 3, 40, 20], [1, 1, 20, 10]]
    assert source.val is not None
    assert len(source.val.images) == 1
    assert "coordinates count from 0 (no VOC as the database of most files)" in caplog.text


def test_a_coordinate_of_0_says_that_counting_starts_there(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = read_voc(str(plain(tmp_path, {"a": page(DOG, ("dog", (0, 3, 9, 9), 0))})))
    assert source.val is None
    assert source.train.boxes.tolist() == [[1, 1, 20, 10], [0, 3, 9, 9]]
    assert "count from 0 (a coordinate below 1)" in caplog.text


def test_annotations_and_images_may_have_folders_of_their_own(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text(page(DOG))
    picture(tmp_path / "images" / "a.JPG")
    source = read_voc(str(tmp_path))
    assert source.train.images[0].image == tmp_path / "images" / "a.JPG"


def test_an_image_is_found_by_the_name_of_its_xml_first(tmp_path):
    for name in ("a.png", "b.jpg", "other.jpg", "lonely.png"):
        picture(tmp_path / name)
    for name, filename in (("a", "other.jpg"), ("b", "gone.jpg"), ("c", r"C:\x\other.jpg"),
                           ("d", "gone.jpg")):  # fmt: skip
        (tmp_path / f"{name}.xml").write_text(page(DOG, filename=filename))
    records = read_voc(str(tmp_path)).train
    images = [listed.image.name for listed in records.images]
    assert images == ["a.png", "b.jpg", "other.jpg", "gone.jpg"]
    assert asides(records) == {"unlisted": ["lonely.png"]}
    with pytest.raises(InputError, match=r"1 images listed but missing .*d\.xml.*gone\.jpg"):
        read_dataset(f"voc:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "broken XML: no element found"),
        (page(DOG)[:90], "broken XML: "),
        ("<annotation>&x;</annotation>", "broken XML: undefined entity"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "broken XML: "),
        (None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_counted_and_named(tmp_path, text, words):
    root = kit(tmp_path)
    broken = root / "Annotations" / "000005.xml"
    broken.unlink() if text is None else broken.write_text(text)
    records = read_voc(str(root)).train
    assert records.labels.tolist() == [1, 0, -1]
    assert np.isnan(records.boxes[2]).all()
    assert records.where(2).startswith(f"{broken}: {words}")
    with pytest.raises(InputError, match=r"1 boxes that are not four finite .*000005\.xml"):
        read_dataset(f"voc:{root}")


def test_a_huge_or_exploding_file_is_not_parsed(tmp_path, monkeypatch):
    bomb = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    text = f'<!DOCTYPE a [<!ENTITY e0 "boom">{bomb}]><annotation>&e11;</annotation>'
    root = kit(tmp_path)
    (root / "Annotations" / "000005.xml").write_text(text)
    assert "broken XML: " in read_voc(str(root)).train.where(2)
    monkeypatch.setattr(voc, "LABELS", 2000)
    (root / "Annotations" / "000005.xml").write_text(page(*[DOG] * 100))
    assert "000005.xml: expected at most" in read_voc(str(root)).train.where(2)


@pytest.mark.parametrize("value", ["", "nan", "inf", "x", "1e999", "&lt;b&gt;"])
def test_a_coordinate_that_is_no_number_is_counted_and_named(tmp_path, value):
    root = plain(tmp_path, {"a": page(DOG, ("dog", (1, value, 9, 9), 0))})
    records = read_voc(str(root)).train
    assert np.isnan(records.boxes[1, 1])
    assert records.where(1).startswith(f"{tmp_path}/a.xml: object 2: 'dog'")
    with pytest.raises(InputError, match=r"1 boxes that are not four finite numbers .*a\.xml"):
        read_dataset(f"voc:{root}")


def test_a_class_of_validation_that_training_lacks_is_a_class_and_named(tmp_path):
    pages = {"train/a": page(DOG), "val/b": page(("zebra", (1, 1, 5, 5), 0), DOG)}
    dataset = read_dataset(f"voc:{plain(tmp_path, pages)}")
    assert dataset.class_names == ("dog", "zebra")
    assert dataset.val[0].labels.tolist() == [1, 0]
    (finding,) = (f for f in dataset.audit.findings if f.kind == "val_only")
    assert (finding.split, finding.count, finding.stops) == ("val", 1, False)
    assert f"{tmp_path}/val/b.xml: object 1: 'zebra'" in finding.first[0]


def test_tags_may_have_a_namespace_or_capitals(tmp_path):
    text = page(DOG, CAT).replace("<annotation>", '<annotation xmlns="http://x.org/voc">')
    root = plain(tmp_path, {"a": text, "b": page(DOG).replace("object>", "Object>")})
    assert read_voc(str(root)).train.image.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<project><module>x</module></project>", "expected an annotation with filename"),
        ("<annotation/>", "expected an annotation with filename"),
        (page().replace("</annotation>", "<objects><object/></objects></annotation>"),
         "expected its objects right below <annotation>"),
        (page().replace("</annotation>", "<thing><bndbox/></thing></annotation>"),
         "expected its objects right below <annotation>"),
    ],
)  # fmt: skip
def test_xml_that_is_not_understood_is_not_without_objects(tmp_path, text, words):
    root = plain(tmp_path, {"train/a": page(DOG), "train/b": text, "val/c": page(DOG)})
    assert words in read_voc(str(root)).train.where(1)
    with pytest.raises(InputError, match=r"1 boxes that are not four finite .*b\.xml: expected"):
        read_dataset(f"voc:{root}")
    repaired = read_dataset(f"voc:{root}", repair=tmp_path / "repaired")
    assert [example.image.name for example in repaired.train] == ["a.png"]


def test_xml_in_an_encoding_of_several_bytes_a_letter_is_read(tmp_path):
    root = plain(tmp_path, {"a": page(DOG)})
    text = '<?xml version="1.0" encoding="gbk"?>' + page(("螺丝", (1, 1, 9, 9), 0))
    (root / "a.xml").write_bytes(text.encode("gbk"))
    assert read_voc(str(root)).class_names == ("螺丝",)


@pytest.mark.parametrize("encoding", ["zip", "hex", "gbk"])
def test_an_encoding_of_no_text_or_broken_text_is_told(tmp_path, encoding):
    root = kit(tmp_path)
    head = f'<?xml version="1.0" encoding="{encoding}"?>'.encode()
    (root / "Annotations" / "000005.xml").write_bytes(head + b"<a>\xff\xff</a>")
    assert "broken XML: " in read_voc(str(root)).train.where(2)


def test_a_folder_test_is_for_validation_where_there_is_no_other(tmp_path, caplog):
    root = plain(tmp_path, {"train/a": page(DOG), "test/b": page(DOG)})
    source = read_voc(str(root))
    assert source.val is not None
    assert names(source.val) == ["b.png"]
    assert f"there is no folder val: {root}/test is taken for validation" in caplog.text
    source = read_voc(str(plain(root, {"Valid/c": page(DOG)})))
    assert source.val is not None
    assert names(source.val) == ["c.png"]
    assert asides(source.val) == {"unused": ["b.xml"]}


def test_files_below_and_behind_links_are_read(tmp_path):
    root = plain(tmp_path / "set", {"train/near/a": page(DOG), "val/c": page(DOG)})
    plain(tmp_path / "far", {"b": page(DOG)})
    (root / "train" / "link").symlink_to(tmp_path / "far")
    assert names(read_voc(str(root)).train) == ["b.png", "a.png"]


def test_splits_may_lie_below_annotations_and_images(tmp_path):
    for name in ("train/x/a", "val/b"):
        path = tmp_path / "annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(DOG))
        picture(tmp_path / "Images" / f"{name}.jpeg")
    picture(tmp_path / "Images" / "train" / "lonely.gif")
    picture(tmp_path / "Images" / "train" / "lonely.png")
    source = read_voc(str(tmp_path))
    assert source.train.images[0].image == tmp_path / "Images" / "train" / "x" / "a.jpeg"
    assert source.val is not None
    assert source.val.images[0].image == tmp_path / "Images" / "val" / "b.jpeg"
    assert asides(source.train) == {"unlisted": ["lonely.gif", "lonely.png"]}


def test_of_images_of_one_stem_the_named_one_is_meant_and_the_other_told(tmp_path):
    for ending in ("png", "jpg"):
        picture(tmp_path / f"a.{ending}")
    (tmp_path / "a.xml").write_text(page(DOG, filename="a.png"))
    records = read_voc(str(tmp_path)).train
    assert names(records) == ["a.png"]
    assert asides(records) == {"unlisted": ["a.jpg"]}


def test_the_list_of_cvat_and_names_with_folders_and_suffixes_are_read(tmp_path):
    root = kit(tmp_path, default="sub/000007.jpg\n000009\n")
    for place, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (root / place / "sub").mkdir()
        file = root / place / f"000007.{ending}"
        file.rename(root / place / "sub" / file.name)
    source = read_voc(str(root))
    assert source.val is None
    assert names(source.train) == ["000007.jpg", "000009.jpg"]
    assert source.train.image.tolist() == [0, 0, 1]


@pytest.mark.parametrize("size", [(0, 0), ("", "x"), (-3, 1e12)])
def test_a_size_that_is_none_is_not_said(tmp_path, size):
    listed = read_voc(str(plain(tmp_path, {"a": page(DOG, size=size)}))).train.images[0]
    assert (listed.height, listed.width) == (None, None)


def test_a_folder_of_another_form_is_told_so(tmp_path):
    assert "found nothing there" in error_of(tmp_path / "no")
    (tmp_path / "file").write_text("")
    assert "found a file there" in error_of(tmp_path / "file")
    assert "expected ImageSets/Main and Annotations, or XML files" in error_of(tmp_path)
    with pytest.raises(InputError, match="needs a folder"):
        read_voc("")
    root = kit(tmp_path / "kit", train="\n")
    assert "train.txt: expected names of images" in error_of(root)
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xff\xfe")
    assert "train.txt: expected the list of images in UTF-8, got other bytes" in error_of(root)
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    assert "expected train.txt and val.txt, or trainval.txt" in error_of(root)
    assert "expected named objects" in error_of(plain(tmp_path / "none", {"a": page()}))
    (tmp_path / "none" / "a.xml").write_text("<")
    assert "found none; " in error_of(tmp_path / "none")
    assert "a.xml: broken XML: " in error_of(tmp_path / "none")


def test_the_fingerprint_follows_annotations_and_images(tmp_path):
    root = kit(tmp_path)
    found = [read_voc(str(root)).fingerprint, read_voc(str(root)).fingerprint]
    (root / "Annotations" / "000005.xml").write_text(page(DOG))
    found.append(read_voc(str(root)).fingerprint)
    picture(root / "JPEGImages" / "000005.png")
    (root / "JPEGImages" / "000005.jpg").unlink()
    found.append(read_voc(str(root)).fingerprint)
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_damaged_files_give_one_line_or_findings(tmp_path):
    root = kit(tmp_path, train="000007\n000009\n", val="000005\n")
    file = root / "Annotations" / "000007.xml"
    original = file.read_bytes()
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(120):
        content = bytearray(original)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(content)))
            if rng.integers(2):
                content[place] = int(rng.integers(256))
            else:
                del content[place : place + int(rng.integers(1, 30))]
        file.write_bytes(content)
        try:
            records = read_voc(str(root)).train
            places = [records.where(index) for index in range(len(records.boxes))]
        except InputError as error:
            places = [str(error)]
        assert all("\n" not in place and str(root) in place for place in places)
        broken += any("broken XML" in place for place in places)
    assert broken > 10
