"""The batch file for Slurm, run by stand-ins for its commands."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.composing import composed

ROOT = Path(__file__).parents[1]
BATCH = ROOT / "scripts" / "slurm" / "train.sbatch"
JOB = {
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_JOB_ID": "17",
}


@pytest.fixture
def cluster(tmp_path) -> Path:
    """A folder with an srun that notes what it was to run, and waits to be told to end."""
    note = 'echo "$SRUN_CPUS_PER_TASK $*" > srun.log'
    for name, code in {
        "srun": f"{note}\nwhile [ ! -e ended ]; do sleep 0.1; done",
        "scontrol": 'echo "$*" > scontrol.log\ntouch ended',
    }.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{code}\n")
        path.chmod(0o755)
    return tmp_path


def submit(cluster: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start the batch script as Slurm would."""
    path = f"{cluster}:{os.environ['PATH']}"
    variables = os.environ | JOB | {"PATH": path} | environment
    return subprocess.Popen([str(BATCH), *arguments], cwd=cluster, env=variables)


def launched(cluster: Path) -> str:
    """What srun was given."""
    limit = time.monotonic() + 20
    while not (cluster / "srun.log").exists() or not (cluster / "srun.log").read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)
    return (cluster / "srun.log").read_text()


def test_bash_reads_it():
    assert subprocess.run(["bash", "-n", str(BATCH)], check=False).returncode == 0
    assert os.access(BATCH, os.X_OK)


def test_it_starts_a_task_for_each_gpu_and_has_the_tasks_signalled():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", BATCH.read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"].startswith("USR1@")
    assert "requeue" in options
    assert options["open-mode"] == "append"  # a requeued job writes on


def test_it_trains_on_all_nodes_and_hands_on_what_it_was_given(cluster):
    job = submit(cluster, "experiment=digits_samples", "seed=1")
    assert launched(cluster) == (
        "8 --kill-on-bad-exit=1 tarflow train trainer=ddp experiment=digits_samples seed=1\n"
    )
    (cluster / "ended").touch()
    assert job.wait(20) == 0
    assert not (cluster / "scontrol.log").exists()


def test_it_runs_in_apptainer_where_there_is_an_image(cluster):
    (cluster / "ended").touch()
    job = submit(cluster, TARFLOW_IMAGE="/images/tarflow.sif", TARFLOW_TRAINER="fsdp2")
    command = launched(cluster)
    assert f"apptainer exec --nv --bind {cluster} /images/tarflow.sif tarflow train" in command
    assert "trainer=fsdp2" in command
    assert job.wait(20) == 0


@pytest.mark.parametrize(
    ("code", "image", "requeued"), [(138, "a.sif", True), (138, "", False), (143, "a.sif", False)]
)
def test_a_container_that_was_told_to_stop_is_put_back_into_the_queue(
    cluster, code, image, requeued
):
    (cluster / "srun").write_text(f"#!/bin/bash\nexit {code}\n")
    assert submit(cluster, TARFLOW_IMAGE=image).wait(20) == code
    log = cluster / "scontrol.log"
    assert (log.read_text() if log.exists() else "") == ("requeue 17\n" if requeued else "")


def test_training_that_fails_fails_the_job(cluster):
    (cluster / "srun").write_text("#!/bin/bash\nexit 3\n")
    assert submit(cluster).wait(20) == 3


def test_it_names_trainers_that_there_are():
    text = BATCH.read_text()
    groups = [*re.findall(r"TARFLOW_TRAINER:-(\w+)", text), *re.findall(r"TRAINER=(\w+)", text)]
    assert set(groups) == {"ddp", "fsdp2"}
    for group in groups:
        assert composed("train", f"trainer={group}").trainer.devices == "auto"


def test_the_run_folder_is_the_same_at_every_start():
    config = composed("train", "name=photos", "seed=3")
    assert config.run_dir == "outputs/photos/seed_3"
