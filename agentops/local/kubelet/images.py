"""Which program stands behind an image.

There is no registry and no image store: the repository's base name (`agentops` of
`registry.example/team/agentops:1.2`) picks an entry of a table. The one image of this project is the
Python that runs the plane, so what runs in a pod is what is installed.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from agentops.local.kubelet.errors import ImageNotMapped

_INIT = "tini"


@frozen(slots=True)
class ImageSpec:
    """What an image's configuration would say."""

    entrypoint: tuple[str, ...]
    args: tuple[str, ...] = ()
    """The default arguments, used when the container sets neither command nor args."""
    env: Mapping[str, str] = field(factory=dict)
    working_dir: str = ""
    """The pod path a container starts in, and exec too, unless the container says otherwise; empty is the root."""
    root_aware: bool = False
    """The program maps pod paths itself (`AGENTOPS_ROOT`), so its arguments and environment need no rewriting."""

    @property
    def image_id(self) -> str:
        """A stable digest of the mapping, where a registry would give the image's."""
        text = json.dumps([self.entrypoint, self.args, sorted(self.env.items())])
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def argv(self, command: Sequence[str], args: Sequence[str]) -> tuple[str, ...]:
        """The command line by Kubernetes' rules: `command` replaces everything, `args` the default arguments."""
        if command:
            return _without_init((*command, *args))
        return (*self.entrypoint, *(args or self.args))


def _without_init(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Without a leading `tini [options] --`: the kubelet reaps and forwards signals itself."""
    if argv and argv[0].rpartition("/")[2] == _INIT and "--" in argv:
        return argv[argv.index("--") + 1 :]
    return argv


def repository_basename(image: str) -> str:
    """`agentops` of `host:5000/team/agentops:1.2@sha256:…`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


@frozen(slots=True)
class ImageMap:
    """Base names to programs."""

    specs: Mapping[str, ImageSpec]

    def resolve(self, image: str) -> ImageSpec:
        """Raises ImageNotMapped naming the table."""
        spec = self.specs.get(repository_basename(image))
        if spec is None:
            known = ", ".join(f"{name} -> {shlex.join(spec.entrypoint)}" for name, spec in sorted(self.specs.items()))
            raise ImageNotMapped(
                f'image "{image}" has no program here: the process kubelet pulls nothing and maps the last part of the '
                f"repository name to a command ({known}); use one of these names, or a real cluster"
            )
        return spec


AGENTOPS_IMAGE = ImageSpec(
    # -P: a json.py in the working directory must not shadow the standard library.
    entrypoint=(sys.executable, "-P", "-m", "agentops"),
    env={"PYTHONUNBUFFERED": "1"},
    working_dir="/data",
    root_aware=True,
)

DEFAULT_IMAGES = ImageMap({"agentops": AGENTOPS_IMAGE})
