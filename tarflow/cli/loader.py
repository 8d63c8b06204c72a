"""How a configuration is composed: from what was typed, and checked before Hydra acts on it."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tarflow.cli.hydra_section import check_section
from tarflow.cli.telling import told_plainly
from tarflow.cli.typed import as_typed, keep_text
from tarflow.errors import ConfigurationError


@contextmanager
def own_loader(arguments: Sequence[str], kinds: Mapping[str, Any]) -> Iterator[None]:
    """Take values as they are typed, and check what Hydra composes before it acts on it.

    This puts a class in place of Hydra's own loader, since the public interface has no place for
    the check: Hydra makes logging, callbacks, sweeper and launcher as soon as it has composed a
    configuration. To call `hydra.compose` before would do for a single run, but not for a sweep:
    every job is composed anew from what a sweeper chose, and takes its logging and environment
    from that. Only the loader sees all jobs, also where a launcher starts other processes.

    Args:
        arguments: Those of the command, which are the user's own.
        kinds: The types of the command's keys.
    """

    class CheckedLoader(ConfigLoaderImpl):
        def load_configuration(
            self,
            config_name: str | None,
            overrides: list[str],
            run_mode: RunMode,
            from_shell: bool = True,
            validate_sweep_overrides: bool = True,
        ) -> DictConfig:
            how = (run_mode, from_shell, validate_sweep_overrides)
            with told_plainly():
                typed = as_typed(overrides, sweeps=run_mode is RunMode.MULTIRUN)
                try:
                    config = super().load_configuration(config_name, typed, *how)
                except HydraException as error:
                    raise self._explained(error, config_name, typed) from error
                if run_mode is RunMode.RUN:
                    keep_text(config, overrides, kinds)
                check_section(config.hydra, arguments)
            return config

        def _explained(
            self, error: HydraException, name: str | None, typed: list[str]
        ) -> ConfigurationError:
            """The error in one sentence, with the keys that were meant where one is unknown."""
            message = " ".join(str(error).split())
            if message.startswith("In 'experiment/") and "No match" in message:
                message += " It is an experiment of another command: its file says of which"
            if not (unknown := re.match(r"Could not override '([^']+)'", message)):
                return ConfigurationError(message)
            key = unknown[1]
            others = [each for each in typed if key != each.partition("=")[0].lstrip("+~")]
            try:
                config = super().load_configuration(name, others, RunMode.MULTIRUN)
            except HydraException:  # another key is unknown too, and told of next
                return ConfigurationError(message)
            return ConfigurationError(unknown_key(config, key))

    with patch.object(hydra._internal.hydra, "ConfigLoaderImpl", CheckedLoader):
        yield


def unknown_key(config: DictConfig, key: str) -> str:
    """What to tell of a key that a configuration does not have."""
    place, dot, last = key.rpartition(".")
    section = OmegaConf.select(config, place, throw_on_missing=False) if place else config
    if not isinstance(section, DictConfig):
        place, _, last = place.rpartition(".")
        return f"{key} is not a setting: {place or 'the configuration'} has no section {last}"
    known = sorted(str(each) for each in section if each not in ("_target_", "_partial_", "hydra"))
    near = difflib.get_close_matches(last, known, n=1)
    meant = f"did you mean {place}{dot}{near[0]}? " if near else ""
    where = place or "the command"
    return f"{key} is not a setting: {meant}{where} has {', '.join(known)}; +{key}=... adds one"
