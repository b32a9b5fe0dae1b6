#!/usr/bin/env bash
# Installs the client libraries of the compatibility tests, at the versions pinned here, into the cache; does nothing when
# they are there. Prints the folder.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spillway/compat
mkdir -p "$cache"
# Two at a time would undo each other.
exec 9>"$cache/lock"
if command -v flock >/dev/null; then
	flock 9
fi

fresh() { # fresh STAMP FILE...: whether what STAMP stands for was made from these files
	cat "${@:2}" | cmp -s - "$1"
}

if ! fresh "$cache/python.stamp" "$here/requirements.txt"; then
	echo "compat: installing Python client libraries into $cache/python" >&2
	rm -rf "$cache/python" "$cache/python.stamp"
	python3 -m venv "$cache/python"
	"$cache/python/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
	cat "$here/requirements.txt" >"$cache/python.stamp"
fi
if ! fresh "$cache/node.stamp" "$here/package.json" "$here/package-lock.json"; then
	echo "compat: installing Node client libraries into $cache/node" >&2
	rm -rf "$cache/node" "$cache/node.stamp"
	mkdir -p "$cache/node"
	cp "$here/package.json" "$here/package-lock.json" "$cache/node/"
	npm --prefix "$cache/node" ci --silent --no-audit --no-fund >&2
	cat "$here/package.json" "$here/package-lock.json" >"$cache/node.stamp"
fi
echo "$cache"
