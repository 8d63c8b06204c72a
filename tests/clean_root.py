"""Builds the image of a Dockerfile without Docker: its steps, in order, in roots of their own.

A root is a folder with nothing but a distribution, made by debootstrap. What stands in for Docker
is `chroot` in a mount namespace, so that nothing stays mounted, whatever happens.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.dockerfile import Dockerfile, Stage, assignments

TRUSTED = "/etc/trusted-by-the-host.crt"
"""Where a root has this machine's certificates; apt rewrites the distribution's own file."""

NETWORK = {
    "/etc/resolv.conf": "/etc/resolv.conf",
    "/etc/hosts": "/etc/hosts",
    "/etc/ssl/certs/ca-certificates.crt": TRUSTED,
}
"""Files by which this machine finds and trusts what steps download, and where they go."""

REACH = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")
"""Variables that Docker too would be given to reach a package index."""

READ_ONLY = """
mount --bind "$0" "$0"
mount -o remount,ro,bind "$0"
mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
"""
"""What Apptainer and a read-only container have in common."""


@dataclass
class Root:
    """One stage, as a folder.

    Attributes:
        path: The folder.
        environment: What `ENV` has set so far.
        arguments: What `ARG` has declared so far.
        directory: `WORKDIR`.
    """

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    directory: str = "/"

    def run(
        self,
        command: Sequence[str],
        user: str = "0:0",
        read_only: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a container of this image would, and return what it printed."""
        variables = self.environment | dict(environment or {})
        inner = shlex.join(
            ["chroot", f"--userspec={user}", "--groups=", str(self.path), "/usr/bin/env", "-i"]
            + [f"--chdir={self.directory}"]
            + [f"{name}={value}" for name, value in variables.items()]
            + list(command)
        )
        mounts = READ_ONLY if read_only else ""
        script = f"""set -e
            {mounts}
            mount -t proc proc "$0/proc"
            mount --rbind /dev "$0/dev"
            exec {inner}"""
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, str(self.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def build_step(self, command: str) -> None:
        """Do a `RUN`."""
        reach = {name: os.environ[name] for name in REACH if name in os.environ}
        reach |= {"PIP_CERT": TRUSTED, "SSL_CERT_FILE": TRUSTED}
        done = self.run(["/bin/sh", "-c", command], environment=reach | self.arguments)
        assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}"

    def inside(self, path: str) -> Path:
        """Where a path of the image lies."""
        return self.path / os.path.join(self.directory, path).lstrip("/")


def debootstrap(path: Path, suite: str) -> Path:
    """Make the smallest root of a Debian release."""
    subprocess.run(["debootstrap", "--variant=minbase", suite, str(path)], check=True)
    for name, place in NETWORK.items():
        shutil.copyfile(name, path / place.lstrip("/"))
    return path


def build(file: Dockerfile, base: Path, context: Path, output: Path) -> dict[str, Root]:
    """Do the steps of every stage, each on a copy of the base."""
    roots: dict[str, Root] = {}
    for stage in file.stages:
        path = output / stage.name
        subprocess.run(["cp", "--archive", str(base), str(path)], check=True)
        roots[stage.name] = Root(path, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        _build(file, stage, context, roots)
    return roots


def _build(file: Dockerfile, stage: Stage, context: Path, roots: dict[str, Root]) -> None:
    """Do the steps of a stage; what tells how to run it is no step."""
    root = roots[stage.name]
    for step in stage.instructions:
        match step.keyword:
            case "RUN":
                root.build_step(step.value)
            case "ENV":
                root.environment.update(assignments(step.value))
            case "ARG":
                name = step.value.partition("=")[0]
                root.arguments[name] = file.arguments[name]
            case "WORKDIR":
                root.directory = step.value
                root.inside(".").mkdir(parents=True, exist_ok=True)
            case "COPY":
                _copy(root, step.value.split(), context, roots)
            case "USER" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                pass
            case _:
                raise ValueError(f"{step.keyword} is not known here")


def _copy(root: Root, words: list[str], context: Path, roots: Mapping[str, Root]) -> None:
    """Do a `COPY`: of a folder its content, from another stage as links, which take no space."""
    source_root, flags = context, ["--archive"]
    if words[0].startswith("--from="):
        source_root, flags = roots[words.pop(0).removeprefix("--from=")].path, ["--archive", "-l"]
    *sources, target = words
    destination = root.inside(target)
    for source in sources:
        path = source_root / source.lstrip("/")
        folder = path.is_dir()
        parent = destination if folder or target.endswith("/") else destination.parent
        parent.mkdir(parents=True, exist_ok=True)
        origin = f"{path}/." if folder else str(path)
        subprocess.run(["cp", *flags, origin, str(destination)], check=True)
