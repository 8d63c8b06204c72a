"""The folder of a sampling run: its samples, what they depend on, what was made of them."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from tarflow.errors import ConfigurationError, DataError
from tarflow.flows.checkpoint import CONFIG, WEIGHTS
from tarflow.machine.files import json_text, put, write_atomically, writing
from tarflow.sampling.gallery import remove_gallery
from tarflow.sampling.sample_shards import SampleShards


@dataclass(frozen=True)
class SampleFolder:
    """Keeps the samples in `shards/`, and never mixes those of two settings."""

    directory: Path

    @property
    def shards(self) -> SampleShards:
        """The samples."""
        return SampleShards(self.directory / "shards")

    @property
    def settings(self) -> Path:
        """What the samples depend on."""
        return self.shards.directory / "settings.json"

    @property
    def finished(self) -> Path:
        """What was made of the samples last, and its files."""
        return self.shards.directory / "finished.json"

    def check_space(self, num_bytes: int) -> None:
        """Refuse, by a `DataError`, to begin what the disk cannot hold."""
        free = shutil.disk_usage(self.directory).free
        if free < num_bytes:
            raise DataError(
                f"the samples take {num_bytes / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free on"
                f" the disk of {self.directory}: free some, choose another output=..., or ask for"
                " fewer samples (num_samples=..., more can be added later)"
            )

    def changes(self, settings: Mapping[str, Any]) -> list[str]:
        """How the samples in the folder were drawn otherwise; nothing where there are none."""
        # In this order: settings are written before the first sample.
        held = self.shards.found()
        if not self.settings.exists():
            return ["their settings.json is missing"] if held else []
        before, settings = _read(self.settings), json.loads(json_text(settings))
        if before is None:
            return ["their settings.json is damaged"]
        return [
            f"{key}: {_brief(before.get(key))} -> {_brief(settings.get(key))}"
            for key in sorted(before.keys() | settings.keys())
            if before.get(key) != settings.get(key)
        ]

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse, by a `ConfigurationError`, to add to samples of other settings."""
        if changes := self.changes(settings):
            raise ConfigurationError(
                f"{self.directory} holds samples of other settings ({'; '.join(changes)}): choose"
                " another output=..., go back to its values, or replace what it holds with"
                " overwrite=true"
            )

    def keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, unless they are there."""
        if self.settings.exists() and not self.changes(settings):
            return
        # Several processes may do this at once: a name of its own first, then the common one.
        own = self.settings.with_name(f".{uuid.uuid4().hex}")
        write_atomically(own, json_text(settings))
        put(own, self.settings)

    def remove_samples(self) -> None:
        """Remove samples and what was made of them; settings tell until the end whose they are."""
        remove_gallery(self.directory)
        self.finished.unlink(missing_ok=True)
        self.shards.remove()

    def finish(self, request: Mapping[str, Any], files: list[Path]) -> None:
        """Remember which files of this folder were made of the samples for a request."""
        content = {"request": request, "files": [path.name for path in files]}
        write_atomically(self.finished, json_text(content))

    def files(self, request: Mapping[str, Any]) -> list[Path]:
        """What was made of the samples for a request; empty where that is still to be done."""
        content = _read(self.finished) if self.finished.exists() else None
        if content is None or content.get("request") != request:
            return []
        files = [self.directory / name for name in content["files"]]
        return files if all(path.exists() for path in files) else []

    def saving(self) -> AbstractContextManager[None]:
        """Tell that a file could not be written, and that no sample is lost; see `writing`."""
        kept = "; whatever was drawn before is kept. Or choose another output=..."
        return writing(self.directory, kept)


def fingerprints(directory: Path) -> dict[str, str]:
    """Short hashes of the files of a pretrained folder, by name: they tell its flow."""
    hashes = {}
    for name in (CONFIG, WEIGHTS):
        with (directory / name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return hashes


def _brief(value: Any) -> str:
    """A value for a message; the labels of a thousand classes would fill the screen."""
    return shorten(str(value), 100, placeholder=" ...")


def _read(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where the file holds none."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError):  # json's, and that of text that is not UTF-8
        return None
    return content if isinstance(content, dict) else None
