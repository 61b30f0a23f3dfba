"""Writes an OCI image layout for one static program: layout.py PROGRAM ARCHITECTURE VERSION FOLDER

https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md
"""

import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tarfile

# Of nobody on the machine that runs it.
USER = 64001
IMAGES = {
    "edge-agent": {
        "name": "tideline-edge",
        "state": "var/lib/tideline",
        "config": ("etc/tideline/agent.toml", "deploy/packages/agent.toml"),
        "command": ["run", "--config", "/etc/tideline/agent.toml"],
        "health": ["status", "--config", "/etc/tideline/agent.toml"],
        "ports": {},
    },
    "cloud-hub": {
        "name": "tideline-hub",
        "state": "var/lib/tideline-hub",
        "config": ("etc/tideline/hub.toml", "deploy/packages/hub.toml"),
        "command": ["serve", "--config", "/etc/tideline/hub.toml"],
        "health": ["ctl", "--data", "/var/lib/tideline-hub", "me"],
        "ports": {"4433/udp": {}, "4433/tcp": {}, "8080/tcp": {}},
    },
}
ARCHITECTURES = {"amd64": ("amd64", None), "arm64": ("arm64", "v8"), "armhf": ("arm", "v7")}


def main(program: pathlib.Path, architecture: str, version: str, folder: pathlib.Path) -> None:
    image = IMAGES[program.name]
    time = int(os.environ["SOURCE_DATE_EPOCH"])
    layout = folder / f"{image['name']}-{architecture}"
    shutil.rmtree(layout, ignore_errors=True)
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes, media_type: str) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    layer = layer_of(program, image, time)
    packed = gzip.compress(layer, 9, mtime=0)
    layer_blob = blob(packed, "application/vnd.oci.image.layer.v1.tar+gzip")
    oci, variant = ARCHITECTURES[architecture]
    created = datetime.datetime.fromtimestamp(time, datetime.timezone.utc).isoformat().replace("+00:00", "Z")
    config = {
        "created": created,
        "architecture": oci,
        **({"variant": variant} if variant else {}),
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": [f"/usr/bin/{program.name}"],
            "Cmd": image["command"],
            "Volumes": {f"/{image['state']}": {}},
            "WorkingDir": "/",
            "ExposedPorts": image["ports"],
            "StopSignal": "SIGTERM",
            # Docker's, which others take over; OCI has no word for it.
            "Healthcheck": {
                "Test": ["CMD", f"/usr/bin/{program.name}", *image["health"]],
                "Interval": 30_000_000_000,
                "Timeout": 5_000_000_000,
                "StartPeriod": 20_000_000_000,
            },
            "Labels": {
                "org.opencontainers.image.title": image["name"],
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        "history": [{"created": created, "created_by": "deploy/containers/build.sh"}],
    }
    config_blob = blob(encoded(config), "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_blob,
        "layers": [layer_blob],
    }
    manifest_blob = blob(encoded(manifest), "application/vnd.oci.image.manifest.v1+json")
    manifest_blob["annotations"] = {
        "org.opencontainers.image.ref.name": version,
        "io.containerd.image.name": f"docker.io/library/{image['name']}:{version}",
    }
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest_blob],
    }
    (layout / "oci-layout").write_bytes(encoded({"imageLayoutVersion": "1.0.0"}))
    (layout / "index.json").write_bytes(encoded(index))
    archive = layout.with_suffix(".tar")
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(layout.rglob("*")):
            add(tar, str(path.relative_to(layout)), time, content=path.read_bytes() if path.is_file() else None)
    print(f"{archive}: {archive.stat().st_size} bytes, {manifest_blob['digest']}")


def layer_of(program: pathlib.Path, image: dict, time: int) -> bytes:
    target, source = image["config"]
    passwd = f"root:x:0:0::/:/sbin/nologin\ntideline:x:{USER}:{USER}::/{image['state']}:/sbin/nologin\n"
    group = f"root:x:0:\ntideline:x:{USER}:\n"
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ["etc", "etc/tideline", "tmp", "usr", "usr/bin", "var", "var/lib"]:
            add(tar, folder, time, mode=0o1777 if folder == "tmp" else 0o755)
        add(tar, image["state"], time, mode=0o700, owner=USER)
        add(tar, "etc/passwd", time, content=passwd.encode())
        add(tar, "etc/group", time, content=group.encode())
        add(tar, target, time, content=pathlib.Path(source).read_bytes())
        add(tar, f"usr/bin/{program.name}", time, content=program.read_bytes(), mode=0o755)
    return written.getvalue()


def add(tar: tarfile.TarFile, name: str, time: int, content: bytes | None = None, mode: int | None = None, owner: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    entry.mode = mode if mode is not None else (0o755 if content is None else 0o644)
    entry.size = len(content or b"")
    entry.mtime = time
    entry.uid = entry.gid = owner
    tar.addfile(entry, io.BytesIO(content) if content is not None else None)


def encoded(value: dict) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


if __name__ == "__main__":
    if len(sys.argv) != 5 or pathlib.Path(sys.argv[1]).name not in IMAGES or sys.argv[2] not in ARCHITECTURES:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4]))
