"""The estimator, as scikit-learn uses it."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tarflow import ConfigurationError, HalfLine, Interval, Real
from tarflow.estimation import TarFlowDensity

TINY = {"num_transforms": 2, "num_layers": 1, "model_dim": 16, "head_dim": 8, "random_state": 0}


def tiny(**options) -> TarFlowDensity:
    """An estimator that is fitted in a second."""
    return TarFlowDensity(**{**TINY, "max_steps": 60, **options})


@parametrize_with_checks([tiny(max_steps=3)])
def test_it_is_an_estimator(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """Rows of iris flowers."""
    return load_iris().data


def test_densities_samples_and_scores(table):
    density = tiny().fit(table)
    scores = density.score_samples(table)
    assert scores.shape == (150,)
    assert density.score(table) == pytest.approx(scores.mean())
    assert density.score(table) > tiny(max_steps=1).fit(table).score(table)
    x = density.sample(1000)
    assert x.shape == (1000, 4)
    assert np.abs(x.mean(axis=0) - table.mean(axis=0)).max() < 0.5
    assert density.sample(0).shape == (0, 4)


def test_a_random_state_fixes_everything(table):
    first, second = (tiny(max_steps=5).fit(table) for _ in range(2))
    assert np.array_equal(first.score_samples(table), second.score_samples(table))
    assert np.array_equal(first.sample(3), second.sample(3))
    assert not np.array_equal(first.sample(3, random_state=1), first.sample(3))
    other = tiny(max_steps=5, random_state=1).fit(table)
    assert not np.allclose(other.score_samples(table), first.score_samples(table))


def test_it_is_pickled_and_searched(table):
    density = tiny(max_steps=5).fit(table)
    again = pickle.loads(pickle.dumps(density))
    assert np.array_equal(again.score_samples(table), density.score_samples(table))
    pipeline = make_pipeline(StandardScaler(), tiny(max_steps=5))
    assert pipeline.fit(table).score_samples(table).shape == (150,)
    search = GridSearchCV(tiny(max_steps=5), {"num_transforms": [1, 2]}, cv=2).fit(table)
    assert search.best_params_["num_transforms"] in (1, 2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_supports_of_columns(table):
    supports = (HalfLine(), HalfLine(), Real(), Interval(0.0, 3.0))
    density = tiny(supports=supports).fit(table)
    x = density.sample(500)
    assert (x[:, :2] > 0).all()
    assert ((x[:, 3] > 0) & (x[:, 3] < 3)).all()
    assert density.score_samples(-table).tolist() == [-np.inf] * 150
    with pytest.raises(ConfigurationError, match="column 0 holds values"):
        tiny(supports=supports).fit(-table)


def test_far_from_zero_nothing_is_lost(table):
    density = tiny(max_steps=20, lr=2e-3).fit(table)
    moved = tiny(max_steps=20, lr=2e-3).fit(table + 1e6)
    assert moved.score(table + 1e6) == pytest.approx(density.score(table), abs=5e-2)


def test_a_constant_column_is_refused(table):
    with pytest.raises(ConfigurationError, match="column 1 is constant, 3"):
        tiny().fit(np.where(np.arange(4) == 1, 3.0, table))
