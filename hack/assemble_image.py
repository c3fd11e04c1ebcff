"""Assembles the image without a container engine: Debian packages and wheels in, an image archive out.

Called by hack/image. The archive is an OCI layout that also has docker's manifest.json. Its two layers (system,
application) are sorted, owned by root and stamped with SOURCE_DATE_EPOCH, so the same inputs give the same bytes.
Standard library only; runs on the Python whose minor version the image has.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

ROOTS = (
    "base-files", "bash", "ca-certificates", "coreutils", "curl", "dash", "diffutils", "findutils", "git", "grep",
    "gzip", "hostname", "less", "libgomp1", "libstdc++6", "mawk", "ncurses-base", "procps", "python3", "ripgrep", "sed",
    "tar", "tini", "tzdata",
)  # fmt: skip
EXCLUDED = re.compile(
    r"^(perl.*|libperl.*|liberror-perl|debconf.*|cdebconf.*|libdebian-installer.*|dpkg|install-info|gawk|original-awk"
    r"|libnewt.*|libslang.*|libtextwrap.*|libmpfr.*|libsigsegv.*|libdb5.*|libgdbm.*|mime-support|mailcap|init-system-helpers"
    r"|adduser|passwd|lsb-base|sysvinit-utils|git-man)$"
)
"""Needed by maintainer scripts, by manual pages, or by git's Perl parts (send-email, svn); nothing here runs those."""

PRUNED = ("usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bash-completion",
          "usr/share/bug", "usr/share/git-core/contrib", "var/cache", "var/log", "var/lib/dpkg")  # fmt: skip
UID = 65532
OWNED = ("data", "var/lib/agentops")
ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
}
OCI_ARCHITECTURE = {"amd64": "amd64", "arm64": "arm64", "armhf": "arm", "i386": "386"}
_DEPENDENCY = re.compile(r"^(?P<indent>[ |]*)(?:Pre)?Depends: (?P<name>[^<\s]+)$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a directory to make the file system in")
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--extras", required=True)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    root = asked.work / "rootfs"
    unpack_packages(root, asked.work / "debs")
    configure(root)
    install_wheel(root, asked.wheel, asked.extras)
    byte_compile(root)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or 0)
    say("writing layers")
    layers = [
        write_layer(root, asked.work / "system.tar", epoch, lambda path: not path.startswith("usr/local/")),
        write_layer(root, asked.work / "application.tar", epoch, lambda path: path.startswith("usr/local/")),
    ]
    write_archive(asked.output, asked.tag, layers, epoch)
    say(f"{asked.output}: {asked.output.stat().st_size / 1e6:.0f} MB")


def say(what: str) -> None:
    sys.stderr.write(f"hack/image: {what}\n")


def run(*command: str, cwd: Path | None = None) -> str:
    """Standard output; ends the program with the command's last words when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise SystemExit(f"hack/image: {' '.join(command[:3])} failed: {' / '.join(last)}")
    return done.stdout


# ---- the file system


def unpack_packages(root: Path, debs: Path) -> None:
    """The closure of ROOTS, downloaded and unpacked on a merged /usr."""
    names = closure(ROOTS)
    say(f"fetching {len(names)} Debian packages")
    debs.mkdir(parents=True)
    sandbox = ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()
    run("apt-get", "-qq", *sandbox, "download", *names, cwd=debs)
    root.mkdir()
    for directory in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / directory).mkdir(parents=True, exist_ok=True)
        (root / directory).symlink_to(f"usr/{directory}")
    for deb in sorted(debs.glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as unpacking:
            subprocess.run(
                ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)],
                stdin=unpacking.stdout,
                check=True,
            )
        if unpacking.returncode != 0:
            raise SystemExit(f"hack/image: {deb.name} cannot be unpacked")
    for path in PRUNED:
        shutil.rmtree(root / path, ignore_errors=True)
    for document in (root / "usr/share/doc").rglob("*"):
        if document.name != "copyright" and (document.is_symlink() or document.is_file()):
            document.unlink()


def closure(roots: Iterable[str]) -> list[str]:
    """`roots` and all they depend on, without alternatives beyond the first that exists, and without EXCLUDED."""
    found: set[str] = set()
    wanted = list(roots)
    while wanted:
        names = sorted({name for name in wanted if name not in found and not EXCLUDED.match(name)})
        wanted = []
        if not names:
            break
        found.update(names)
        told = run("apt-cache", "depends", "--no-recommends", "--no-suggests", "--no-enhances", *names)
        alternative = False
        for line in told.splitlines():
            match = _DEPENDENCY.match(line)
            if match is None:
                alternative = False
                continue
            if not alternative:
                wanted.append(match["name"].partition(":")[0])
            alternative = "|" in match["indent"]
    return sorted(found)


def configure(root: Path) -> None:
    """What maintainer scripts would have done, as far as a container needs it."""
    for path in ("data", "etc", "proc", "sys", "dev", "run", "root", "tmp", "var/lib/agentops", "var/log", "var/tmp",
                 "usr/local/bin", "etc/ssl/certs"):  # fmt: skip
        (root / path).mkdir(parents=True, exist_ok=True)
    for path in ("tmp", "var/tmp"):
        (root / path).chmod(0o1777)
    (root / "root").chmod(0o700)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\n"
        f"agentops:x:{UID}:{UID}:agentops:/tmp:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    (root / "etc/group").write_text(f"root:x:0:\nagentops:x:{UID}:\nnogroup:x:65534:\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = "".join(certificate.read_text().rstrip() + "\n" for certificate in certificates)
    (root / "etc/ssl/certs/ca-certificates.crt").write_text(bundle)
    for link, target in (
        ("usr/bin/awk", "mawk"),
        ("usr/bin/pager", "less"),
        ("usr/local/bin/python", "/usr/bin/python3"),
    ):
        if not (root / link).is_symlink():
            (root / link).symlink_to(target)
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("dash")


def install_wheel(root: Path, wheel: Path, extras: str) -> None:
    """The wheel with its dependencies, and pip for what a role fetches on first use."""
    minor = python_of(root)
    if minor != f"{sys.version_info.major}.{sys.version_info.minor}":
        raise SystemExit(
            f"hack/image: Debian's Python is {minor}, this is {sys.version.split()[0]}; run with python{minor}"
        )
    site = root / f"usr/local/lib/python{minor}/dist-packages"
    say(f"installing {wheel.name} [{extras}]")
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
        "--only-binary", ":all:", "--no-warn-script-location", "--root-user-action", "ignore",
        "--target", str(site), f"{wheel}[{extras}]", "pip",
    )  # fmt: skip
    for binary in sorted((site / "bin").glob("*")):
        # Scripts name the builder's interpreter; programs do not.
        if binary.is_file() and not binary.read_bytes().startswith(b"#!"):
            shutil.move(binary, root / "usr/local/bin" / binary.name)
    shutil.rmtree(site / "bin", ignore_errors=True)
    for record in site.glob("*.dist-info/direct_url.json"):
        record.unlink()
    entry = root / "usr/local/bin/agentops"
    entry.write_text("#!/usr/bin/python3\nfrom agentops.cli import main\n\nmain()\n")
    entry.chmod(0o755)


def python_of(root: Path) -> str:
    """`3.11` for the Python in the file system."""
    return (root / "usr/bin/python3").readlink().name.removeprefix("python")


def byte_compile(root: Path) -> None:
    """The root is read-only in pods: what is not compiled now is compiled at every start."""
    say("byte-compiling")
    minor = python_of(root)
    for tree in (root / f"usr/lib/python{minor}", root / "usr/lib/python3", root / f"usr/local/lib/python{minor}"):
        if tree.is_dir():
            subprocess.run(
                [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash",
                 "-x", r"/(tests?|lib2to3/tests|bad_coding)/", "-s", str(root), "-p", "/", str(tree)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip


# ---- the archive


def write_layer(root: Path, target: Path, epoch: int, wanted: Callable[[str], bool]) -> Path:
    """A tar of the wanted paths below `root`: sorted, owned by root, without set-id bits."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as layer:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if not wanted(name):
                continue
            entry = layer.gettarinfo(path, name)
            entry.uid = entry.gid = UID if name in OWNED else 0
            entry.uname = entry.gname = ""
            entry.mtime = epoch
            entry.mode &= ~(stat.S_ISUID | stat.S_ISGID)
            if entry.isreg():
                with path.open("rb") as content:
                    layer.addfile(entry, content)
            else:
                layer.addfile(entry)
    return target


def write_archive(output: Path, tag: str, layers: list[Path], epoch: int) -> None:
    """An OCI layout with one image, plus docker's manifest.json."""
    created = datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    architecture = run("dpkg", "--print-architecture").strip()
    digests = [file_digest(layer) for layer in layers]
    config = canonical(
        {
            "architecture": OCI_ARCHITECTURE.get(architecture, architecture),
            "os": "linux",
            "created": created,
            "config": {
                "User": f"{UID}:{UID}",
                "Env": [f"{name}={value}" for name, value in ENV.items()],
                "Entrypoint": ["tini", "--", "agentops"],
                "WorkingDir": "/data",
                "Labels": {"org.opencontainers.image.title": "agentops"},
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            "history": [{"created": created, "created_by": f"hack/image {layer.stem}"} for layer in layers],
        }
    )
    manifest = canonical(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": f"sha256:{digest}",
                    "size": layer.stat().st_size,
                }
                for layer, digest in zip(layers, digests, strict=True)
            ],
        }
    )
    name = {
        "io.containerd.image.name": f"docker.io/library/{tag}",
        "org.opencontainers.image.ref.name": tag.partition(":")[2],
    }
    manifest_descriptor = descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    index = {"schemaVersion": 2, "manifests": [manifest_descriptor | {"annotations": name}]}
    docker = [
        {
            "Config": f"blobs/sha256/{digest_of(config)}",
            "RepoTags": [tag],
            "Layers": [f"blobs/sha256/{digest}" for digest in digests],
        }
    ]
    output.parent.mkdir(exist_ok=True)
    part = output.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as archive:
        for layer, digest in zip(layers, digests, strict=True):
            with layer.open("rb") as content:
                archive.addfile(file_entry(f"blobs/sha256/{digest}", layer.stat().st_size, epoch), content)
        for path, data in (
            (f"blobs/sha256/{digest_of(config)}", config),
            (f"blobs/sha256/{digest_of(manifest)}", manifest),
            ("index.json", canonical(index)),
            ("manifest.json", canonical(docker)),
            ("oci-layout", canonical({"imageLayoutVersion": "1.0.0"})),
        ):
            archive.addfile(file_entry(path, len(data), epoch), io.BytesIO(data))
    part.replace(output)


def file_entry(name: str, size: int, epoch: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, epoch, 0o644
    return entry


def descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{digest_of(data)}", "size": len(data)}


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


if __name__ == "__main__":
    main()
