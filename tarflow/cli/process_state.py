"""What commands leave as it was: several run in one process, as in a notebook or a sweep."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from unittest.mock import patch

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf.basecontainer import BaseContainer

CONFIGURED = ("tarflow", "lightning.pytorch")
"""Loggers that commands configure, besides the root and those that are there already."""

LOGGER_STATE = ("level", "propagate", "disabled")


@contextlib.contextmanager
def process_kept() -> Iterator[None]:
    """Leave the environment, the folder, warnings and loggers as they were, also after an error.

    Lightning tells of the seed, of ranks and of Weights & Biases by variables, which the next run
    would go by.
    """
    with (
        patch.dict(os.environ),
        contextlib.chdir("."),
        warnings.catch_warnings(),
        _loggers_kept(),
    ):
        yield


@contextlib.contextmanager
def hydra_kept() -> Iterator[None]:
    """Leave Hydra, which is one for a process, and OmegaConf's resolvers as they were."""
    singletons = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
    held = {each: dict(vars(each.instance())) for each in singletons}
    resolvers = dict(BaseContainer._resolvers)
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        for each, state in held.items():
            vars(each.instance()).update(state)
        BaseContainer._resolvers.clear()
        BaseContainer._resolvers.update(resolvers)


@contextlib.contextmanager
def _loggers_kept() -> Iterator[None]:
    """Leave loggers and their handlers as they were."""
    names = {*logging.Logger.manager.loggerDict, *CONFIGURED}
    loggers = [logging.getLogger(), *map(logging.getLogger, names)]
    held = [
        (
            {key: getattr(each, key) for key in LOGGER_STATE},
            list(each.handlers),
            list(each.filters),
        )
        for each in loggers
    ]
    levels = {each: each.level for logger in loggers for each in logger.handlers}
    disabled = logging.root.manager.disable
    try:
        yield
    finally:
        for logger, (state, handlers, filters) in zip(loggers, held, strict=True):
            logger.setLevel(state.pop("level"))  # with what it remembers of levels
            vars(logger).update(state)
            logger.handlers[:], logger.filters[:] = handlers, filters
        for handler, level in levels.items():
            handler.setLevel(level)
        logging.disable(disabled)
