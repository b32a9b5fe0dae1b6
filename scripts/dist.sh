#!/usr/bin/env bash
# Packs what `make build` built into a tarball that runs where it is unpacked, or looks whether one does.
#
#   scripts/dist.sh                 target/dist/spillway-VERSION-ARCH.tar.gz and its .sha256
#   scripts/dist.sh check TARBALL   compares the checksum, unpacks it elsewhere, starts the gateway from there, asks /health
#
#   CARGO_TARGET_DIR=DIR   where the build is; DIST_FROM=DIR names the folder of the two binaries itself
#   DIST_TO=DIR            where the tarball goes; default: $CARGO_TARGET_DIR/dist
#   DIST_GZIP=N            1 fast … 9 small (default)
#   SOURCE_DATE_EPOCH=S    the time of everything in it; default: that of the last commit
#
# The same build gives the same tarball, byte for byte: names are in order, times are one, owners are nobody.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

die() {
	echo "dist: $*" >&2
	exit 1
}

rpath() { # rpath BINARY: where it looks for shared libraries, first its own folder, then where cargo built them
	readelf -d "$1" 2>/dev/null | sed -nE 's/.*\((RPATH|RUNPATH)\).*\[(.*)\]/\2/p'
}

copy_plugins() { # copy_plugins ENGINE FOLDER: a build for GPUs is a folder of libraries; the others are one file
	local built
	built=$(rpath "$1" | tr ':' '\n' | grep '/out/lib$' || true)
	[[ -n "$built" ]] || return 0
	[[ -d "$built/../backends" ]] || die "the engine's plug-ins are not in $built/../backends: build it again"
	mkdir -p "$2/backends"
	cp -P "$built"/*.so* "$2/"
	cp -P "$built/../backends"/*.so* "$2/backends/"
}

stage() { # stage BINARIES FOLDER: everything that goes into the tarball
	local from=$1 to=$2 binary
	mkdir -p "$to/bin" "$to/share/completions" "$to/config/chaos" "$to/dashboards" "$to/systemd" "$to/docs"
	for binary in spillway spillway-engine; do
		[[ -x "$from/$binary" ]] || die "$from/$binary is not there: run \`make build\` first"
		# Symbols stay, so that a backtrace has names; line tables would be most of it.
		strip --strip-debug --enable-deterministic-archives -o "$to/bin/$binary" "$from/$binary"
	done
	copy_plugins "$from/spillway-engine" "$to/bin/lib"
	"$from/spillway" man --dir "$to/share/man/man1"
	"$from/spillway" completions bash >"$to/share/completions/spillway.bash"
	"$from/spillway" completions zsh >"$to/share/completions/_spillway"
	"$from/spillway" completions fish >"$to/share/completions/spillway.fish"
	cp "$here"/config/{spillway.toml,models.toml,prometheus.yml,rules.yml,alerts.yml} "$to/config/"
	cp "$here"/config/chaos/*.toml "$to/config/chaos/"
	cp "$here"/dashboards/*.json "$to/dashboards/"
	cp "$here"/packaging/systemd/* "$to/systemd/"
	cp "$here"/docs/{runbook,upgrade}.md "$to/docs/"
	cp "$here"/{README.md,CHANGELOG.md,LICENSE} "$to/"
	python3 "$here/scripts/licences.py" >"$to/LICENSES-THIRD-PARTY.txt"
}

pack() {
	local target="${CARGO_TARGET_DIR:-$here/target}" from to version arch name epoch work
	from="${DIST_FROM:-$target/release}"
	to="${DIST_TO:-$target/dist}"
	version=$("$from/spillway" --version | cut -d' ' -f2)
	arch="$(uname -m)-$(uname -s | tr '[:upper:]' '[:lower:]')"
	work=$(mktemp -d)
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	stage "$from" "$work/stage"
	for plugin in "$work"/stage/bin/lib/backends/libggml-{cuda,vulkan,hip}.so; do
		[[ ! -e "$plugin" ]] || arch+="-$(basename "$plugin" .so | cut -d- -f2)"
	done
	name="spillway-$version-$arch"
	mv "$work/stage" "$work/$name"
	epoch="${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 0)}"
	mkdir -p "$to"
	tar --create --directory "$work" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner \
		--mode=u+rwX,go+rX,go-w --format=gnu "$name" | gzip --no-name "-${DIST_GZIP:-9}" >"$to/$name.tar.gz.part"
	mv "$to/$name.tar.gz.part" "$to/$name.tar.gz"
	(cd "$to" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
	echo "$to/$name.tar.gz"
}

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

check() { # check TARBALL
	local tarball work port gateway=
	tarball=$(realpath "$1")
	work=$(mktemp -d)
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	(cd "$(dirname "$tarball")" && sha256sum --check --quiet "$(basename "$tarball").sha256") || die "the checksum differs"
	tar -xzf "$tarball" -C "$work" --strip-components=1
	port=$(free_port)
	# From another folder, with nothing of the checkout: what is missing would show.
	(
		cd "$work"
		exec env SPILLWAY__SERVER__LISTEN="127.0.0.1:$port" SPILLWAY__SERVER__ADMIN_LISTEN=127.0.0.1:0 SPILLWAY__LEDGER__URL=memory: \
			bin/spillway serve --demo >"$work/log" 2>&1
	) &
	gateway=$!
	for _ in $(seq 300); do
		if curl -sf -o /dev/null "http://127.0.0.1:$port/health"; then break; fi
		kill -0 "$gateway" 2>/dev/null || die "the gateway ended: $(tail -n 3 "$work/log")"
		sleep 0.1
	done
	curl -sf -o /dev/null "http://127.0.0.1:$port/health" || die "no answer on /health: $(tail -n 3 "$work/log")"
	"$work/bin/spillway-engine" --list-devices >/dev/null || die "the engine does not start"
	kill "$gateway"
	wait "$gateway" || die "the gateway did not end in good order: $(tail -n 3 "$work/log")"
	echo "dist: $(basename "$tarball") serves /health from where it was unpacked"
}

case "${1:-pack}" in
pack) pack ;;
check) check "${2:?which tarball}" ;;
*) die "want nothing, or check TARBALL" ;;
esac
