#!/usr/bin/env bash
# Installs what drives a browser in the console's tests, at the version pinned here, into the cache; does nothing when it is
# there. Prints the folder.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spillway/console
mkdir -p "$cache"
# Two at a time would undo each other.
exec 9>"$cache/lock"
if command -v flock >/dev/null; then
	flock 9
fi

if ! cat "$here/package.json" "$here/package-lock.json" | cmp -s - "$cache/node.stamp"; then
	echo "console: installing what drives the browser into $cache/node" >&2
	rm -rf "$cache/node" "$cache/node.stamp"
	mkdir -p "$cache/node"
	cp "$here/package.json" "$here/package-lock.json" "$cache/node/"
	npm --prefix "$cache/node" ci --silent --no-audit --no-fund >&2
	cat "$here/package.json" "$here/package-lock.json" >"$cache/node.stamp"
fi
echo "$cache"
