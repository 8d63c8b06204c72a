"""What the doctor finds on this machine, and on broken ones."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tarflow.doctor import Examination, Finding, State, examine
from tarflow.doctor.collectives import find_collectives
from tarflow.doctor.hardware import check_device, failed, find_unusable, measure
from tarflow.doctor.software import find_compilation, find_compiler, find_package
from tarflow.nn import probes as attention_probes

CPU = torch.device("cpu")


def test_this_machine_can_train(tmp_path):
    told = []
    examination = examine(tmp_path / "outputs", quick=True, tell=told.append)
    assert examination.broken == []
    topics = {finding.topic for finding in examination.findings}
    assert topics == {"versions", "devices", "attention", "processes", "folders", "compiling"}
    assert "folders" in told
    found = {finding.name: finding.text for finding in examination.findings}
    assert found["torch"].startswith(torch.__version__)


def test_the_table_names_what_is_broken():
    findings = (
        Finding("devices", "cpu", State.GOOD, "2 cores"),
        Finding("folders", "output", State.BROKEN, "outputs is not a folder"),
        Finding("folders", "home", State.WARNING, "set HOME"),
    )
    console = Console(file=io.StringIO(), width=100)
    Examination(findings).print(console)
    text = console.file.getvalue()
    assert "outputs is not a folder" in text
    assert "training cannot work here: folders: output" in text
    assert Examination(findings[2:]).verdict == "training can work here; warnings: 1"


def test_what_the_kernels_computed_wrong_keeps_training_from_working(tmp_path, monkeypatch):
    wrong = lambda q, k, v: 0 * (q + k + v)  # noqa: E731
    monkeypatch.setattr(attention_probes, "TorchAttention", lambda: wrong)
    broken = examine(tmp_path, quick=True).broken
    assert [finding.topic for finding in broken] == ["attention"]


def test_a_device_that_does_not_multiply_is_broken():
    assert check_device(CPU).state is State.GOOD
    finding = check_device(torch.device("meta"))
    assert finding.state is State.BROKEN
    assert finding.name == "meta"


def test_a_device_that_is_taken_is_not_broken():
    taken = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert failed("devices", "cuda:0", taken).state is State.WARNING
    assert failed("devices", "cuda:0", RuntimeError("no kernel image")).state is State.BROKEN


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPUs here work")
def test_gpus_that_torch_cannot_use_are_broken_unless_hidden(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_unusable(tmp_path) == []
    (tmp_path / "nvidia0").touch()
    [finding] = find_unusable(tmp_path)
    assert finding.state is State.BROKEN
    assert "1 in" in finding.text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    [finding] = find_unusable(tmp_path)
    assert finding.state is State.NOTE


def test_a_process_sums_with_itself_over_gloo_again_and_again():
    for _ in range(2):
        [gloo, *_] = find_collectives([CPU], quick=False)
        assert (gloo.name, gloo.state) == ("gloo", State.GOOD)
        assert not torch.distributed.is_initialized()


def test_a_package_that_does_not_import_is_broken(tmp_path, monkeypatch):
    (tmp_path / "unfit.py").write_text("raise RuntimeError('operator nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    finding = find_package("unfit", "unfit")
    assert finding.state is State.BROKEN
    assert "operator nms does not exist" in finding.text


def test_a_missing_compiler_is_a_warning(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_compiler().state is State.WARNING
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no-such-compiler" in find_compiler().text


def test_missing_headers_are_a_warning(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert "Python's headers" in find_compiler().text
    Path(tmp_path, "Python.h").touch()
    assert find_compiler().state is State.GOOD


def test_compiling_that_fails_is_a_warning(monkeypatch):
    def broken(function):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch, "compile", broken)
    finding = find_compilation(CPU)
    assert finding.state is State.WARNING
    assert "Failed to find C compiler" in finding.text


def test_rates_are_measured_in_two_precisions():
    [finding] = measure(CPU)
    assert "GB/s" in finding.text
    assert "float32" in finding.text
    assert "bfloat16" in finding.text
