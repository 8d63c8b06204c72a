"""A sampling run is resumed, extended, shared; it never mixes samples, repeats or loses one."""

import json
import time
from collections import namedtuple
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from tarflow import ConfigurationError, DataError, GaussianNoise, Pixels
from tarflow.machine.processes import Process
from tarflow.sampling.flow_sampler import FlowSampler
from tarflow.sampling.gallery import Gallery
from tarflow.sampling.sample_folder import SampleFolder
from tarflow.sampling.sample_run import SampleRun

from .models import tiny_flow

FLOW = tiny_flow(num_channels=1, num_classes=3, codec=Pixels(17), noise=GaussianNoise(0.3))


@dataclass(frozen=True)
class Recorder(FlowSampler):
    """Remembers what it drew; is interrupted before a sample that it must not draw."""

    drawn: list[range] = field(default_factory=list)
    until: float = float("inf")

    def __call__(self, indices):
        if indices.stop > self.until:
            raise KeyboardInterrupt
        self.drawn.append(indices)
        return super().__call__(indices)


@pytest.fixture
def run(tmp_path):
    """A run of ten samples in batches of three."""
    sampler = Recorder(FLOW, classes=torch.arange(3))
    settings = {"weights": "a", **sampler.settings}
    return SampleRun(SampleFolder(tmp_path / "samples"), settings, 10, 3, sampler=sampler)


def draw(run, overwrite=False):
    with run.opened(overwrite, run.sampler.bytes_per_sample):
        run.fill("sampling", run.sampler)


def drawn(run):
    """What a run has drawn; forgets it."""
    found = list(run.sampler.drawn)
    run.sampler.drawn.clear()
    return found


def content(run):
    """The bytes of every shard."""
    return {path.name: path.read_bytes() for path in run.folder.shards.directory.glob("0*.npz")}


def with_sampler(run, **changes):
    sampler = replace(run.sampler, **changes)
    return replace(run, sampler=sampler, settings={**run.settings, **sampler.settings})


def of(run, rank, world_size=2):
    """The share of a process of several, which remembers for itself."""
    return replace(with_sampler(run, drawn=[]), process=Process(rank, world_size))


def test_every_batch_becomes_a_shard(run):
    draw(run)
    assert drawn(run) == [range(3), range(3, 6), range(6, 9), range(9, 10)]
    assert run.folder.shards.found() == [range(3), range(3, 6), range(6, 9), range(9, 10)]
    settings = json.loads((run.folder.shards.directory / "settings.json").read_text())
    assert settings == {"weights": "a", **run.sampler.settings}
    assert settings["label"] == "[0, 1, 2]"


def test_samples_come_back_in_order(run, capsys):
    draw(run)
    expected = run.sampler(range(10))
    panels = run.panels(7)
    assert list(panels) == ["samples", "denoised"]
    for name, pixels in panels.items():
        assert np.array_equal(pixels, expected[name][:7])
    assert len(run.panels(99)["samples"]) == 10
    pixels = list(run.pixels("writing images"))
    assert [len(part) for part in pixels] == [3, 3, 3, 1]
    assert np.array_equal(torch.cat(pixels), expected["denoised"])
    assert "10/10" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(run, capsys):
    with pytest.raises(KeyboardInterrupt):
        draw(with_sampler(run, until=6))
    assert drawn(run) == [range(3), range(3, 6)]
    before = content(run)
    draw(run)
    assert drawn(run) == [range(6, 9), range(9, 10)]
    assert "going on from 6 of 10" in capsys.readouterr().out
    assert before.items() < content(run).items()


def test_more_samples_are_added(run):
    draw(run)
    before = content(run)
    drawn(run)
    draw(replace(run, count=17))
    assert drawn(run) == [range(10, 12), range(12, 15), range(15, 17)]
    assert before.items() < content(run).items()
    assert run.folder.shards.missing(range(17)) == []
    draw(replace(run, count=5))
    assert drawn(run) == []


def test_another_batch_size_fills_the_gaps(run):
    draw(run)
    run.folder.shards.path(range(3, 6)).unlink()
    drawn(run)
    draw(replace(run, batch_size=5))
    assert drawn(run) == [range(3, 5), range(5, 6)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_processes_share_the_batches(run, monkeypatch, order, capsys):
    alone = replace(run, folder=SampleFolder(run.folder.directory.with_name("alone")))
    draw(alone)
    drawn(run)
    runs = {rank: of(run, rank) for rank in order}
    monkeypatch.setattr(time, "sleep", lambda seconds: draw(runs[1]))
    for rank in order:
        if rank == 0 or not runs[1].sampler.drawn:
            draw(runs[rank])
        if order == (0, 1):
            break  # the leading process has waited for the other
    assert drawn(runs[0]) == [range(3), range(6, 9)]
    assert drawn(runs[1]) == [range(3, 6), range(9, 10)]
    assert content(run) == content(alone)
    out = capsys.readouterr().out
    assert ("waiting for the other processes" in out) == (order == (0, 1))


def test_the_number_of_processes_may_change(run):
    draw(of(run, 1, 3))
    draw(of(run, 1, 2))
    drawn(run)
    draw(run)
    assert drawn(run) == [range(3), range(6, 9)]


def test_a_damaged_shard_is_drawn_again(run, capsys):
    draw(run)
    before = content(run)
    drawn(run)
    path = run.folder.shards.path(range(3, 6))
    path.write_bytes(path.read_bytes()[:-30])
    draw(of(run, 2, 3))  # whose it is not
    assert len(path.read_bytes()) < len(before[path.name])
    draw(run)
    assert drawn(run) == [range(3, 6)]
    assert content(run) == before
    assert f"{path} was damaged: its samples are drawn again" in capsys.readouterr().out


def test_a_shard_over_several_shares_is_checked_by_each(run):
    wide = replace(run, batch_size=6)
    draw(wide)
    path = run.folder.shards.path(range(6))
    path.write_bytes(b"")
    one, other = of(run, 1), of(run, 0)
    draw(one)
    draw(other)
    assert drawn(one) == [range(3, 6)]
    assert drawn(other) == [range(3)]


def test_other_settings_are_refused_by_name(run):
    draw(run)
    before = content(run)
    for other, message in [
        (with_sampler(run, seed=7), r"\(seed: 0 -> 7\).*another output.*overwrite=true"),
        (with_sampler(run, classes=None), r"\(label: \[0, 1, 2\] -> None\)"),
        (with_sampler(run, denoise=False), r"\(denoise: True -> False\)"),
        (replace(run, settings={**run.settings, "weights": "b"}), r"\(weights: a -> b\)"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            draw(other)
    many = with_sampler(run, classes=torch.zeros(1000, dtype=torch.long))
    with pytest.raises(ConfigurationError) as caught:
        draw(many)
    assert len(str(caught.value)) < 600
    assert content(run) == before


@pytest.mark.parametrize("damage", ["remove", "damage"])
def test_samples_of_unknown_settings_are_refused(run, damage):
    draw(run)
    path = run.folder.shards.directory / "settings.json"
    path.unlink() if damage == "remove" else path.write_text("[1")
    with pytest.raises(ConfigurationError, match=r"settings.json is (missing|damaged)"):
        draw(run)
    drawn(run)
    draw(run, overwrite=True)
    assert len(drawn(run)) == 4


def test_overwriting_replaces_what_other_settings_left_and_nothing_else(run):
    draw(run)
    gallery = Gallery(run.folder.directory, Pixels(17))
    gallery.write_grid(run.panels(10))
    gallery.write_images(run.pixels("writing images"))
    other = with_sampler(run, seed=7)
    drawn(run)
    draw(replace(other, count=3), overwrite=True)
    assert drawn(run) == [range(3)]
    assert [path.name for path in run.folder.directory.iterdir()] == ["shards"]
    draw(replace(other, count=6), overwrite=True)
    assert drawn(run) == [range(3, 6)]


def test_one_process_overwrites_and_the_others_wait(run, monkeypatch, capsys):
    draw(run)
    lead, other = (of(with_sampler(run, seed=7), rank) for rank in (0, 1))

    def sleep(seconds):
        monkeypatch.undo()
        with lead.opened(overwrite=True):
            pass

    monkeypatch.setattr(time, "sleep", sleep)
    draw(other, overwrite=True)
    assert drawn(other) == [range(3, 6), range(9, 10)]
    assert run.folder.shards.found() == [range(3, 6), range(9, 10)]
    assert "waiting for process 0 to replace" in capsys.readouterr().out


def test_a_run_that_was_replaced_meanwhile_stops(run):
    with run.opened():
        draw(with_sampler(run, seed=7), overwrite=True)
        run.folder.shards.path(range(3)).unlink()
        with pytest.raises(ConfigurationError, match="seed: 7 -> 0"):
            run.fill("sampling", run.sampler)
    assert range(3) not in run.folder.shards.found()


def test_files_are_made_once_for_a_request(run):
    request = {"columns": None, "data": {"name": "digits"}}
    assert run.files(request) == []
    draw(run)
    assert run.files(request) == []
    grid = run.folder.directory / "grid.png"
    grid.write_bytes(b"")
    run.folder.finish(request, [grid])
    assert run.files(request) == [grid]
    assert run.files({"columns": 3}) == []
    assert with_sampler(run, seed=7).files(request) == []
    grid.unlink()
    assert run.files(request) == []
    grid.write_bytes(b"")
    (run.folder.shards.directory / "finished.json").write_text("{")
    assert run.files(request) == []


def test_a_folder_that_cannot_be_written_is_refused_at_once(run, tmp_path):
    (tmp_path / "samples").write_text("a file")
    with pytest.raises(DataError, match=r"samples cannot be written \(.*\): make room"):
        draw(run)
    assert drawn(run) == []


def test_a_disk_that_is_too_small_is_refused_at_once(run, monkeypatch):
    usage = namedtuple("usage", "free")
    need = 10 * 2 * 4 * 4
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(need - 1))
    with pytest.raises(DataError, match=r"take 3.2e-07 GB, but 3.19e-07 GB are free .*output="):
        draw(run)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(need))
    draw(run)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0))
    draw(run)


def test_a_disk_that_fills_up_loses_nothing(run, monkeypatch):
    from tarflow.sampling.sample_shards import write_atomically

    def write(path, content):
        if path.name.startswith("000006"):
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("tarflow.sampling.sample_shards.write_atomically", write)
        with pytest.raises(DataError, match=r"No space left on device.*give the same command"):
            draw(run)
    drawn(run)
    draw(run)
    assert drawn(run) == [range(6, 9), range(9, 10)]


@pytest.mark.parametrize(("num_samples", "batch_size"), [(0, 3), (3, 0)])
def test_nothing_to_draw_is_refused(run, num_samples, batch_size):
    with pytest.raises(ConfigurationError, match="must be at least 1"):
        draw(replace(run, count=num_samples, batch_size=batch_size))
    assert not run.folder.directory.exists()
