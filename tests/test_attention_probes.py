"""Kernels are called working only after they have computed attention, and broken with a reason."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tarflow.nn import probes as attention_probes
from tarflow.nn.probes import probe_default, probe_kernels, probe_package

CPU = torch.device("cpu")


@pytest.fixture
def stub(tmp_path, monkeypatch) -> Path:
    """A package flash_attn that can be found and has nothing in it."""
    package = tmp_path / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    yield package
    sys.modules.pop("flash_attn", None)


def test_torch_attends_on_a_cpu():
    assert probe_default(CPU).failure == ""
    failures = {probe.name: probe.failure for probe in probe_kernels(CPU)}
    assert failures["torch MATH"] == ""
    assert failures["torch CUDNN_ATTENTION"]
    assert all("\n" not in failure for failure in failures.values())


def test_kernels_that_need_a_gpu_say_so():
    failures = [probe.failure for probe in probe_kernels(CPU) if "switched" in probe.name]
    assert all(failure == "needs a CUDA device" for failure in failures)


def test_a_package_without_the_function_is_told_from_one_that_is_absent(stub):
    assert "flash_attn_func" in probe_package(CPU).failure


def test_a_package_whose_library_does_not_load_gives_the_reason(stub):
    (stub / "__init__.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    assert "undefined symbol: _ZN3c10" in probe_package(CPU).failure


def test_a_package_with_the_function_still_needs_a_gpu(stub):
    functions = ("flash_attn_func", "flash_attn_varlen_func")
    (stub / "__init__.py").write_text("".join(f"def {name}(): ...\n" for name in functions))
    assert probe_package(CPU).failure == "it computes on CUDA devices, not on cpu"


@pytest.mark.skipif("flash_attn" in sys.modules, reason="flash-attn is there")
def test_an_absent_package_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert probe_package(CPU).failure == "not installed"


def test_wrong_values_and_wrong_gradients_do_not_pass(monkeypatch):
    right = attention_probes.TorchAttention()

    def uncausal(q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    def undifferentiated(q, k, v):
        return right(q.detach(), k.detach(), v) + 0 * (q + k)

    monkeypatch.setattr(attention_probes, "TorchAttention", lambda: uncausal)
    assert "values are off" in probe_default(CPU).failure
    monkeypatch.setattr(attention_probes, "TorchAttention", lambda: undifferentiated)
    assert "gradients are off" in probe_default(CPU).failure


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_attends_on_a_gpu():
    device = torch.device("cuda", 0)
    assert probe_default(device).failure == ""
    assert any(probe.failure == "" for probe in probe_kernels(device))
