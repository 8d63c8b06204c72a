"""Several processes train as one does, however they are started, stopped and started again."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.slurm import fake_scontrol
from tests.test_training.test_resume import assert_same

STEPS = 20
SETTINGS = [
    "experiment=digits_samples",
    f"trainer.max_steps={STEPS}",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "model.model_dim=16",
    "model.head_dim=8",
    "model.num_layers=1",
    "model.num_transforms=2",
    "model.dropout=0",  # masks differ between processes
    "optimizer.lr=1e-3",  # larger ones blow rounding up
    "data.batch_size=16",
    "schedule.warmup_steps=1",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.averaging.decays=[0.9,0.99]",
    "callbacks.sample_grid.every_n_steps=15",
    "callbacks.sample_grid.num_samples=2",
]
PYTHON = [sys.executable, "-m"]
TRAIN = ["tarflow", "train", *SETTINGS]
TORCHRUN = [*PYTHON, "torch.distributed.run"]
KEPT = ("state_dict", "averaging", "optimizer_states", "lr_schedulers", "global_step")
SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Where all runs of these tests are."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


def start(*command: str, **environment: str) -> subprocess.Popen:
    """Start a run whose processes form a group of their own."""
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(*processes: subprocess.Popen, code: int = 0) -> str:
    """Wait for runs, and say what they said if they failed."""
    said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(
        said
    )
    return "\n".join(said)


def once_at_step(run: str, step: int) -> None:
    """Wait until a run has written its state of a step or of a later one."""
    checkpoint, deadline = Path(run, "checkpoints/last.ckpt"), time.monotonic() + SECONDS
    while not checkpoint.exists() or state(run)["global_step"] < step:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state(run: str) -> dict:
    """What a run kept last."""
    return torch.load(Path(run, "checkpoints/last.ckpt"), weights_only=True)


def losses(run: str) -> list[float]:
    """The losses that a run logged, whatever it was interrupted by."""
    found = {}
    for path in sorted(Path(run, "logs").glob("*/metrics.csv")):
        for row in csv.DictReader(path.read_text().splitlines()):
            if row["train/nats_per_dim"]:
                found[int(row["step"])] = float(row["train/nats_per_dim"])
    return [found[step] for step in sorted(found)]


@pytest.fixture(scope="module")
def alone() -> list[float]:
    """The losses of one process, which takes its batches in two parts."""
    finish(start(*PYTHON, *TRAIN, "run_dir=alone", "data.device_batch_size=8"))
    assert state("alone")["ImageDataModule"] == {"done": 2 * STEPS, "parts": 2}
    return losses("alone")


@pytest.fixture(scope="module")
def straight(alone) -> str:
    """A run of two processes, started by torchrun."""
    finish(start(*TORCHRUN, "--nproc-per-node=2", "-m", *TRAIN, "trainer=ddp", "run_dir=straight"))
    return "straight"


@pytest.fixture(scope="module")
def sharded(alone) -> str:
    """A run of two processes that share the weights, started by Lightning."""
    finish(start(*PYTHON, *TRAIN, "trainer=fsdp2", "trainer.devices=2", "run_dir=sharded"))
    return "sharded"


def assert_same_run(resumed: str, straight: str) -> None:
    """Two runs logged the same losses and ended in the same state, to the last bit."""
    assert losses(resumed) == losses(straight)
    ends = [{name: state(run)[name] for name in KEPT} for run in (resumed, straight)]
    assert_same(*ends)


@pytest.mark.parametrize("kind", ["straight", "sharded"])
def test_two_processes_have_the_losses_of_one(kind, alone, request):
    run = request.getfixturevalue(kind)
    assert len(alone) == STEPS
    assert losses(run) == pytest.approx(alone, abs=1e-5)
    whole = state("alone")["averaging"]["averages"]
    for decay, average in state(run)["averaging"]["averages"].items():
        for name, value in average.items():
            torch.testing.assert_close(value, whole[decay][name], rtol=0, atol=1e-4)
    assert {path.name for path in Path(run).iterdir()} >= {"pretrained", "pretrained_0.99"}
    assert Path(run, "grids/step_0000015.png").exists()


@pytest.mark.slow
def test_a_killed_run_of_two_processes_goes_on(straight):
    command = [*PYTHON, *TRAIN, "trainer=ddp", "trainer.devices=2", "run_dir=killed"]
    process = start(*command)
    once_at_step("killed", 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert state("killed")["global_step"] < STEPS
    assert "going on from killed/checkpoints/last.ckpt" in finish(start(*command))
    assert_same_run("killed", straight)


def slurm(*command: str, job: str, **environment: str) -> list[subprocess.Popen]:
    """Start what srun would start for two tasks on one node."""
    common = environment | {
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
    }
    ranks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    return [start(*command, **common, **rank) for rank in ranks]


@pytest.mark.slow
def test_a_sharded_job_of_slurm_that_is_told_to_stop_is_requeued_and_goes_on(sharded, tmp_path):
    environment = {"PATH": f"{fake_scontrol(tmp_path, 'RUNNING')}:{os.environ['PATH']}"}
    command = [*PYTHON, *TRAIN, "trainer=fsdp2", "run_dir=slurm"]
    command.append("callbacks.preemption.seconds=0")  # or the run might be over before
    processes = slurm(*command, job="4242", **environment)
    once_at_step("slurm", 2)
    processes[1].send_signal(signal.SIGUSR1)
    said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    codes = [process.returncode for process in processes]
    # Only one of them knows which signal it was.
    assert codes == [128 + signal.SIGTERM, 128 + signal.SIGUSR1], said
    stopped = state("slurm")["global_step"]
    assert 2 <= stopped < STEPS
    assert f"stopped the run at step {stopped}: the same command goes on from there" in said[0]
    assert (tmp_path / "asked").read_text().splitlines() == ["show job 4242", "requeue 4242"]
    finish(*slurm(*command, job="4242", **environment))
    assert_same_run("slurm", sharded)


@pytest.mark.slow
def test_a_sweep_is_launched_by_submitit():
    """On this machine; `submitit_slurm` submits the same to a cluster."""
    sweep = ["hydra/launcher=submitit_local", "name=lr_${optimizer.lr}", "trainer.max_steps=2"]
    command = ["tarflow", "train", "--multirun", *SETTINGS, *sweep]
    finish(start(*PYTHON, *command, "optimizer.lr=0.001,0.002"))
    for rate in (0.001, 0.002):
        content = torch.load(f"outputs/lr_{rate}/seed_0/checkpoints/last.ckpt", weights_only=True)
        assert content["global_step"] == 2


@contextmanager
def hosts():
    """Two network namespaces, each with an address of its own, joined by a cable."""

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

    names = [f"tarflow{os.getpid()}{end}" for end in "ab"]
    cables = [f"tf{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for index, (name, cable) in enumerate(zip(names, cables, strict=True), start=1):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "address", "add", f"10.213.7.{index}/24", "dev", cable)
            for device in (cable, "lo"):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        _remove(names)
        pytest.skip(f"network namespaces cannot be made here: {reason}")
    try:
        yield list(zip(names, cables, strict=True))
    finally:
        _remove(names)


def _remove(names: list[str]) -> None:
    """Delete namespaces, and the cables with them."""
    if shutil.which("ip"):
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.slow
def test_two_hosts_have_the_losses_of_one_process(alone):
    with hosts() as places:
        processes = []
        for rank, (name, cable) in enumerate(places):
            where = ["ip", "netns", "exec", name]
            how = ["--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"]
            how += ["--master-addr=10.213.7.1", "--master-port=29477"]
            command = [*where, *TORCHRUN, *how, "-m", *TRAIN, "trainer=ddp", "run_dir=hosts"]
            processes.append(start(*command, GLOO_SOCKET_IFNAME=cable))
        finish(*processes)
    assert losses("hosts") == pytest.approx(alone, abs=1e-5)
