#!/usr/bin/env bash
# Installs OpenTelemetry's own classes of OTLP's messages, at the versions pinned here, into the cache; does nothing when they
# are there. Prints the folder.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spillway/otlp
mkdir -p "$cache"
# Two at a time would undo each other.
exec 9>"$cache/lock"
if command -v flock >/dev/null; then
	flock 9
fi

if ! cmp -s "$here/requirements.txt" "$cache/python.stamp"; then
	echo "otlp: installing OpenTelemetry's messages into $cache/python" >&2
	rm -rf "$cache/python" "$cache/python.stamp"
	python3 -m venv "$cache/python"
	"$cache/python/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
	cp "$here/requirements.txt" "$cache/python.stamp"
fi
echo "$cache"
