#!/usr/bin/env python3
"""Prints the licences of everything that is linked into the two binaries: which crate has which, and each text once.

Asks cargo which crates those are (build tools and tests left out) and reads the texts out of the crates themselves. A crate that
has none is listed with the name of its licence."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = ("license", "licence", "copying", "notice", "unlicense")


def metadata() -> dict:
    host = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    triple = next(line.split(": ")[1] for line in host.splitlines() if line.startswith("host: "))
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", triple]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)


def linked(data: dict) -> list[dict]:
    """The crates that the workspace's own depend on, directly or not, by ordinary dependencies."""
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    own = set(data["workspace_members"])
    seen, todo = set(own), list(own)
    while todo:
        for dependency in nodes[todo.pop()]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]) and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                todo.append(dependency["pkg"])
    packages = [package for package in data["packages"] if package["id"] in seen - own]
    return sorted(packages, key=lambda package: (package["name"], package["version"]))


def texts(package: dict) -> list[str]:
    folder = pathlib.Path(package["manifest_path"]).parent
    places = [folder, folder / "llama.cpp"]
    files = [path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.is_file()]
    files = [path for path in files if path.name.lower().startswith(NAMES)]
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in files]


def main() -> None:
    packages = linked(metadata())
    by_text: dict[str, list[str]] = {}
    out = ["What is linked into spillway and spillway-engine beside their own code, and under which licence.", ""]
    for package in packages:
        name = f"{package['name']} {package['version']}"
        out.append(f"{name:<44} {package['license'] or 'see its text'}")
        for text in texts(package):
            by_text.setdefault(text, []).append(name)
    for text, names in by_text.items():
        out += ["", "-" * 100, ", ".join(dict.fromkeys(names)), "", text]
    sys.stdout.write("\n".join(out) + "\n")


main()
