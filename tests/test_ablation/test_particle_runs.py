"""Runs of particles, on a system and for a time that are small."""

import json
from dataclasses import replace

import pytest
import torch

from tarflow.ablation.densities import particle_runs
from tarflow.ablation.densities.particle_runs import EnergyRun, SamplesRun
from tarflow.ablation.densities.particle_tasks import TASKS
from tarflow.estimation import LikelihoodFit, ReverseFit
from tarflow.sampling.langevin_chains import LangevinChains

CHAINS = LangevinChains(warm_up=20, num_draws=4, thinning=5, num_levels=2)


@pytest.mark.parametrize(("kind", "data"), [(EnergyRun, "DW-4"), (SamplesRun, "LJ-13")])
def test_a_run_measures_what_it_says(kind, data, monkeypatch):
    fit = LikelihoodFit(max_steps=3)
    small = replace(TASKS[data], chains=CHAINS, num_chains=10, fit=fit)
    monkeypatch.setitem(TASKS, data, small)
    monkeypatch.setattr(particle_runs, "FREE_FIT", fit)
    monkeypatch.setattr(particle_runs, "NUM_FREE", 200)
    monkeypatch.setattr(particle_runs, "HOT_FIT", ReverseFit(max_steps=3, batch_size=16))
    run, threads = kind(data, seed=1, num_samples=50), torch.get_num_threads()
    found = json.loads(json.dumps(run.do(), allow_nan=False))
    torch.set_num_threads(threads)
    assert found["settings"] == json.loads(json.dumps(run.settings))
    assert found["settings"]["variant"] in run.name
    assert 0 < found["effective_sample_size"] <= 1
    assert found["annealed"]["effective_sample_size"] >= 1 / 10
    assert found["gaps"]["truth"] == 0
    assert 0 < found["gaps"]["annealed"] <= 1
    assert len(found["histograms"]["truth"]) == 100
    assert sum(found["histograms"]["weighted"]) == pytest.approx(1)
