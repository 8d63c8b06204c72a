"""WebDataset shards: ours and others', read at random."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tarflow.data import Shards, memory_mapped, prepare, random_images, tar_shards
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels


def png(value, size=(8, 8), mode="RGB", kind="PNG"):
    content = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(content, format=kind)
    return content.getvalue()


def write(path, files):
    """Write a tar file of some files, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def values_of(dataset):
    return [int(dataset[index][0][0, 0, 0]) for index in range(len(dataset))]


def labels_of(dataset):
    return [dataset[index][1].get("label") for index in range(len(dataset))]


@pytest.fixture
def folder(tmp_path):
    """Shards as others write them."""
    write(tmp_path / "train-000000.tar", {
        "n01/0.cls": b"2", "n01/0.jpg": png(40, (20, 16), kind="JPEG"),
        "n02/0.cls": b"0\n", "n02/0.json": b"{}", "n02/0.png": png(50),
    })  # fmt: skip
    write(tmp_path / "train-000001.tar", {"b.seg.PNG": png(60, mode="L"), "b.cls": b"1"})
    write(tmp_path / "test-000000.tar", {"a.webp": png(70, kind="WEBP"), "a.cls": b"1"})
    return tmp_path


def test_shards_of_others(folder):
    data = tar_shards(folder, 8)
    assert np.allclose(values_of(data.train), [40, 50, 60], atol=2)
    assert labels_of(data.train) == [2, 0, 1]
    assert labels_of(data.test) == [1]
    assert (data.num_classes, data.image_shape, data.codec) == (3, (3, 8, 8), Pixels(256))
    assert str(folder) in data.name
    assert data.train[0][0].shape == (3, 8, 8)
    assert tar_shards(folder, 4, num_channels=1).train[2][0].tolist() == [[[60] * 4] * 4]


def test_patterns_and_parts(folder):
    data = tar_shards(
        folder, 8, train="train-000000.tar", validation="train-000001.tar", horizontal_flip=True,
        num_classes=3,
    )  # fmt: skip
    assert (len(data.train), labels_of(data.validation)) == (2, [1])
    with pytest.raises(DataError, match=r"no .*val-\*.tar: expected are WebDataset shards"):
        tar_shards(folder, 8, test="val-*.tar")


def test_labels_with_gaps(folder):
    options = {"train": "train-000000.tar", "validation": "train-000001.tar"}
    with pytest.raises(DataError, match=r"from 0 to 2, but no training image is of class 1: numb"):
        tar_shards(folder, 8, **options)
    assert tar_shards(folder, 8, **options, num_classes=7).num_classes == 7
    with pytest.raises(DataError, match=r"go to 2; allowed is 0 \.\.\. 1 \(num_classes\)"):
        tar_shards(folder, 8, **options, num_classes=2)


def test_shards_in_folders(folder):
    (folder / "deep").mkdir()
    (folder / "test-000000.tar").rename(folder / "deep" / "test-000000.tar")
    data = tar_shards(folder, 8, test="deep/*.tar")
    assert labels_of(data.test) == [1]
    assert (folder / ".deep__.tar.index.npz").exists()


def test_unlabelled_shards(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / f"{part}-0.tar", {"0.png": png(1), "1.png": png(2)})
    data = tar_shards(tmp_path, 8)
    assert data.num_classes == 0
    assert labels_of(data.train) == [None, None]
    write(tmp_path / "train-0.tar", {"0.png": png(1), "0.cls": b"0", "1.png": png(2)})
    with pytest.raises(DataError, match=r"image 1 of .* has no label, but others have"):
        tar_shards(tmp_path, 8)


def test_names_with_several_dots(tmp_path):
    write(tmp_path / "train-0.tar", {
        "22.05.png": png(1), "22.06.png": png(2), "22.05.cls": b"0", "22.06.cls": b"1",
        "0.left.png": png(3), "0.right.png": png(4), "0.cls": b"2",
        "v1.0/0.png": png(5), "v1.0/0.cls": b"1",
        "1.png": png(6), "1.jpg": png(7, kind="JPEG"), "1.cls": b"0",
    })  # fmt: skip
    write(tmp_path / "test-0.tar", {"a.b.c.png": png(8), "a.b.cls": b"1", "a.cls": b"0"})
    data = tar_shards(tmp_path, 8)
    assert values_of(data.train) == [1, 2, 3, 4, 5, 6, 7]
    assert labels_of(data.train) == [0, 1, 2, 2, 1, 0, 0]
    assert labels_of(data.test) == [1]


def test_any_format_is_read_and_junk_is_not(tmp_path):
    write(tmp_path / "train-0.tar", {
        "a.gif": png(1, kind="GIF"), "b.JFIF": png(20, kind="JPEG"),
        "./c.tiff": png(3, kind="TIFF"),
        "._a.png": b"", "__MACOSX/a.png": b"", ".ipynb_checkpoints/a.png": b"", "a.txt": b"",
    })  # fmt: skip
    write(tmp_path / "test-0.tar", {"a.png": png(1)})
    assert values_of(tar_shards(tmp_path, 8).train) == [1, 20, 3]


def test_an_index_of_an_earlier_version_is_made_again(folder):
    tar_shards(folder, 8)
    [index] = folder.glob(".train-_.tar.index.npz")
    with np.load(index) as arrays:
        content = {name: arrays[name] for name in arrays}
    for version in ({"version": 1}, {}):
        old = {name: array for name, array in content.items() if name != "version"} | version
        np.savez(index, **{**old, "label": np.zeros_like(old["label"])})
        assert labels_of(tar_shards(folder, 8).train) == [2, 0, 1]


def test_damaged_shards(folder):
    path = folder / "train-000001.tar"
    sound = path.read_bytes()
    for content in (b"", b"no tar file", sound[:700], sound[:520]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"train-000001.tar cannot be read .*expected are"):
            tar_shards(folder, 8)
    write(path, {"b.png": b"no picture", "b.cls": b"1"})
    data = tar_shards(folder, 8)
    with pytest.raises(DataError, match=r"train-000001.tar, byte 512 \(cannot identify"):
        data.train[2]
    write(path, {"b.png": png(1), "b.cls": b"cat"})
    with pytest.raises(DataError, match=r"train-000001.tar cannot be read \(invalid literal"):
        tar_shards(folder, 8)
    for path in folder.glob("train*"):
        write(path, {"readme.txt": b"nothing here"})
    with pytest.raises(DataError, match=r"train-\*.tar holds no images"):
        tar_shards(folder, 8)


def test_the_index_is_kept_and_made_again_when_shards_change(folder, monkeypatch):
    tar_shards(folder, 8)
    [index] = folder.glob(".train-_.tar.index.npz")
    made = index.stat().st_mtime_ns
    monkeypatch.setattr("tarfile.open", lambda *_, **__: pytest.fail("read the headers again"))
    assert labels_of(tar_shards(folder, 8).train) == [2, 0, 1]
    monkeypatch.undo()
    assert index.stat().st_mtime_ns == made
    write(
        folder / "train-000001.tar",
        {"b.png": png(60), "b.cls": b"1"} | {"c.png": png(61), "c.cls": b"0"},
    )
    assert labels_of(tar_shards(folder, 8).train) == [2, 0, 1, 0]
    index.write_bytes(b"damaged")
    assert labels_of(tar_shards(folder, 8).train) == [2, 0, 1, 0]


def test_storage_that_is_for_reading_only(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("tarflow.data.storage.tar_images.write_atomically", refuse)
    assert labels_of(tar_shards(folder, 8).train) == [2, 0, 1]
    assert not list(folder.glob(".*"))


@pytest.fixture
def prepared(tmp_path):
    """Ten shards of our own."""
    data = random_images(num_train=20, num_test=4, image_size=8)
    prepare(data, tmp_path / "shards", Shards(images_per_shard=2))
    return data, tmp_path / "shards"


def test_our_shards_are_read_like_any(prepared):
    data, folder = prepared
    assert len(list(folder.glob("train-*.tar"))) == 10
    for read in (tar_shards(folder, 8), memory_mapped(folder)):
        for index in (19, 0, 7):
            assert torch.equal(read.train[index][0], data.train[index][0])
            assert read.train[index][1] == data.train[index][1]
    assert read.name == data.name


def test_the_index_comes_with_the_shards_and_their_copies(prepared, tmp_path, monkeypatch):
    _, folder = prepared
    folder = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.setattr("tarfile.open", lambda *_, **__: pytest.fail("read the headers again"))
    assert len(memory_mapped(folder).train) == 20


def test_files_stay_few_and_shareable(prepared, monkeypatch):
    data, folder = prepared
    monkeypatch.setattr("tarflow.data.storage.tar_images.MAX_OPEN", 3)
    train = memory_mapped(folder).train
    before = len(os.listdir("/proc/self/fd"))
    for index in torch.randperm(20).tolist() * 3:
        assert torch.equal(train[index][0], data.train[index][0])
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    copy = pickle.loads(pickle.dumps(train))
    images = torch.stack([copy[index][0] for index in range(20)])
    del copy
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    read, _ = zip(*DataLoader(train, 4, num_workers=2), strict=True)  # forked, with open files
    assert torch.equal(torch.cat(read), images)


READS = """
import sys, numpy, webdataset
stream = webdataset.WebDataset(sys.argv[2:], shardshuffle=False).decode("rgb8")
images, labels = zip(*stream.to_tuple("png", "cls"))
numpy.savez(sys.argv[1], images=numpy.stack(images), labels=numpy.array(labels))
"""

WRITES = """
import sys, numpy, webdataset
for part in ("train", "test"):
    with webdataset.ShardWriter(f"{sys.argv[1]}/{part}-%06d.tar", maxcount=2, verbose=0) as sink:
        for index in range(5):
            pixels = numpy.full((8, 8, 3), index, numpy.uint8)
            sink.write({"__key__": f"{index:06}", "png": pixels, "cls": index % 2})
"""


def run(program, *arguments):
    """Run a program that uses the package, which leaves open files behind, by itself."""
    pytest.importorskip("webdataset")
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)


def test_the_webdataset_package_reads_our_shards(prepared, tmp_path):
    data, folder = prepared
    run(READS, str(tmp_path / "read.npz"), *sorted(map(str, folder.glob("train-*.tar"))))
    found = np.load(tmp_path / "read.npz")
    assert found["labels"].tolist() == labels_of(data.train)
    for index, image in enumerate(found["images"]):
        assert (image.transpose(2, 0, 1) == data.train[index][0].numpy()).all()


def test_we_read_shards_of_the_webdataset_package(tmp_path):
    run(WRITES, str(tmp_path))
    data = tar_shards(tmp_path, 8)
    assert values_of(data.train) == list(range(5))
    assert labels_of(data.test) == [0, 1, 0, 1, 0]
