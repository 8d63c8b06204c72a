"""Which files of a folder are examples, and in which part and class each is."""

import json

import pytest
from PIL import Image

from tarflow.data import image_folder
from tarflow.data.storage.picture_folder import PictureFolder
from tarflow.errors import DataError


def put(root, *paths):
    """Make pictures, which need not be decoded, and other files."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def found(root):
    """The parts and classes of a folder."""
    return PictureFolder(root, "expected is EXPECTED").parts


def names(root):
    """The name and the label of each picture, by part."""
    return {
        name: list(zip(part.names, part.labels, strict=True)) for name, part in found(root).items()
    }


PETS = [("cat/0.png", 0), ("dog/0.png", 1)]


@pytest.mark.parametrize(
    "parts",
    [
        {"train": "train", "test": "test"},
        {"train": "Train", "test": "Test"},
        {"train": "TRAINING", "val": "valid", "test": "Testing"},
        {"train": "training_", "test": "test"},
        {"train": "train", "val": "dev", "test": "test"},
        {"train": "train", "val": "Validation", "test": "test"},
        {"train": "train", "val": "val", "test": "test"},
    ],
)
@pytest.mark.parametrize("wrapper", ["", "archive/", "a/b c/"])
def test_parts_and_wrappers(tmp_path, parts, wrapper):
    for name in parts.values():
        put(tmp_path, *(f"{wrapper}{name}/{path}" for path, _ in PETS))
    if "training_" in parts.values():
        with pytest.raises(DataError, match=r"holds test and, beside these, training_; expected"):
            found(tmp_path)
    else:
        assert names(tmp_path) == dict.fromkeys(parts, PETS)
        assert found(tmp_path)["train"].class_names == ("cat", "dog")


def test_classes(tmp_path):
    put(tmp_path, *(f"{name}/deep/{name}.PNG" for name in ("2", "10", "1", "a10", "a9", "B")))
    assert found(tmp_path)["train"].class_names == ("1", "2", "10", "B", "a9", "a10")
    assert names(tmp_path)["train"][2] == ("10/deep/10.PNG", 2)


def test_one_class_and_none(tmp_path):
    put(tmp_path / "one", "all/0.png", "all/1.png")
    assert names(tmp_path / "one") == {"train": [("all/0.png", 0), ("all/1.png", 0)]}
    put(tmp_path / "none", "0.png", "1.png")
    assert names(tmp_path / "none") == {"train": [("0.png", -1), ("1.png", -1)]}
    put(tmp_path / "parts", "train/0.png", "test/1.png")
    assert names(tmp_path / "parts") == {"train": [("0.png", -1)], "test": [("1.png", -1)]}
    put(tmp_path / "train", "train/0.png")
    assert found(tmp_path / "train")["train"].class_names == ("train",)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/cat/0.png", "Train/cat/0.png", "test/cat/0.png"], "Train and train, both train"),
        (["train/a/0.png", "val/a/0.png", "dev/a/0.png", "test/a/0.png"], "dev and val, both val"),
        (["test/a/0.png", "val/a/0.png"], "holds test, val but no train: name the images to fit"),
        (["train/a/0.png", "test/a/0.png", "cat/0.png"], "test, train and, beside these, cat;"),
        (["train/a/0.png", "test/a/0.png", "0.png"], "test, train and, beside these, pictures;"),
        (["train/a/0.png", "test/0.png"], "differ in the classes a: every part needs"),
        (["train/a/0.png", "test/b/0.png"], "differ in the classes a, b: every part needs"),
        (["a/0.png", "b/0.png", "0.png", "1.png"], r"pictures \(2, such as 0.png\) beside the"),
        (["a/train/0.png", "a/test/0.png", "b/0.png"], r"a holds the parts of a class: exchange"),
        (["a/0.png", "b/notes.txt"], "no pictures of the classes b: add some"),
        (["a/notes.txt", "b.csv"], r"no pictures, but 2 of other kinds \(.csv, .txt\)"),
    ],
)
def test_what_is_refused(tmp_path, paths, message):
    put(tmp_path, *paths)
    with pytest.raises(DataError, match=message):
        found(tmp_path)


JUNK = [
    *(".ipynb_checkpoints/a.png", "cat/.ipynb_checkpoints/0-checkpoint.png", "cat/._0.png"),
    *("__MACOSX/cat/._0.png", "@eaDir/0.png", "cat/@eaDir/0.png/thumb.png", "cat/Thumbs.db"),
    *(".DS_Store", "cat/desktop.ini", ".hidden/0.png"),
]


def test_what_is_left_out(tmp_path, capsys):
    put(tmp_path, "cat/0.png", "dog/0.png", *JUNK, "cat/0.xml", "dog/film.mp4", "notes.md")
    assert names(tmp_path) == {"train": PETS}
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "2 train pictures in 2 classes; left out: 10 hidden or of the system (" in told
    assert "3 of other kinds (.md, .mp4, .xml)" in told


RUNS = {
    "outputs/photos/seed_0/config.json": {"run_dir": "outputs/photos/seed_0"},
    "mine/config.json": {"run_dir": "mine"},
    "multirun/2026-11-26/0/.hydra/config.yaml": {},
    "sweep/multirun.yaml": {},
    "prepared/meta.json": {"sha256": {}},
    "samples/certificates.csv": {},
}


@pytest.mark.parametrize("path", RUNS)
def test_runs_inside_the_data_are_left_out(tmp_path, path, capsys):
    put(tmp_path, "cat/0.png", "dog/0.png", path)
    folder = (tmp_path / path).parent
    (tmp_path / path).write_text(json.dumps(RUNS[path]))
    put(folder, "grids/step_1.png", "grid.png", "images/000000.png")
    assert names(tmp_path) == {"train": PETS}
    assert "1 written by a command (" in capsys.readouterr().err
    put(tmp_path / "new", "cat/0.png", "dog/0.png")
    (tmp_path / "new/outputs/empty").mkdir(parents=True)
    assert names(tmp_path / "new") == {"train": PETS}


def test_files_of_the_same_name_that_are_not_of_runs(tmp_path):
    put(tmp_path, "cat/0.png", "dog/0.png", "cat/config.json", "dog/meta.json")
    assert names(tmp_path) == {"train": PETS}


def test_links(tmp_path):
    put(tmp_path, "real/0.png", "pets/cat/0.png")
    (tmp_path / "pets/dog").symlink_to(tmp_path / "real")
    (tmp_path / "pets/cat/back").symlink_to(tmp_path / "pets")
    assert names(tmp_path / "pets") == {"train": PETS}


def table(root, labels):
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(labels))


SHARDS = ("00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png")


@pytest.mark.parametrize("wrapper", ["", "edm/"])
def test_labels_of_a_table(tmp_path, wrapper):
    root = tmp_path / wrapper
    put(root, *SHARDS)
    table(root, {"labels": list(zip(SHARDS, (2, 0, 1), strict=True))})
    assert names(tmp_path) == {"train": list(zip(SHARDS, (2, 0, 1), strict=True))}
    assert found(tmp_path)["train"].class_names == ()
    table(root, {"labels": None})
    assert names(tmp_path) == {"train": [(name, -1) for name in SHARDS]}
    table(root, {"about": "something else"})
    assert found(tmp_path)["train"].class_names == ("00000", "00001")


def test_tables_of_parts(tmp_path):
    for part, labels in {"train": (1, 0, 1), "test": (0, 0, 0)}.items():
        put(tmp_path / part, *SHARDS)
        table(tmp_path / part, {"labels": list(zip(SHARDS, labels, strict=True))})
    assert [label for _, label in names(tmp_path)["train"]] == [1, 0, 1]
    assert [label for _, label in names(tmp_path)["test"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [[SHARDS[0], 0]]}, "no label for 2 of 3 pictures, such as 00000/img00000001"),
        ({"labels": [[name, [0.0, 1.0]] for name in SHARDS]}, "labels are integers from 0"),
        ({"labels": [[name, -1] for name in SHARDS]}, "labels are integers from 0"),
        ({"labels": "none"}, r"dataset.json cannot be read .* expected is"),
        ("{", r"dataset.json cannot be read .* expected is"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, content, message):
    put(tmp_path, *SHARDS)
    table(tmp_path, content)
    if content == "{":
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=message):
        found(tmp_path)


def test_a_table_with_gaps(tmp_path):
    for name in SHARDS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    table(tmp_path, {"labels": [[name, 3] for name in SHARDS]})
    with pytest.raises(DataError, match=r"from 3 to 3, but no training image is of class 0: numb"):
        image_folder(tmp_path, 4, test_fraction=0.5)
    data = image_folder(tmp_path, 4, test_fraction=0.5, num_classes=5)
    assert (data.num_classes, data.class_names) == (5, ())
    with pytest.raises(DataError, match=r"labels of .* go to 3; allowed is 0 \.\.\. 2"):
        image_folder(tmp_path, 4, test_fraction=0.5, num_classes=3)


def test_a_prepared_folder_has_the_same_classes(tmp_path):
    for name in ("2/0.png", "2/1.png", "10/0.png", "10/1.png", ".ipynb_checkpoints/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    assert image_folder(tmp_path, 4, test_fraction=0.5).class_names == ("2", "10")
