#!/usr/bin/env bash
# Installs what is missing to build (no argument) or to test (`test`). Does nothing when all is there. Knows apt only;
# elsewhere it says what to install.
set -euo pipefail

oldest_rust=1.94
packages=()
missing=()

need() { # need DESCRIPTION PACKAGE COMMAND...: notes the package unless the command succeeds
	local description=$1 package=$2
	shift 2
	if ! "$@" >/dev/null 2>&1; then
		missing+=("$description")
		packages+=("$package")
	fi
}

# The library, and the compiler headers that come with its -dev package: the bindings need both.
has_libclang() {
	[[ -n "${LIBCLANG_PATH:-}" ]] && return
	compgen -G '/Library/Developer/CommandLineTools/usr/lib/libclang.dylib' && return
	{ compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib*/libclang*.so*'; } &&
		{ compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' || compgen -G '/usr/lib*/clang/*/include/stddef.h'; }
}

has_chromium() {
	[[ -n "${SPILLWAY_CHROMIUM:-}" ]] || command -v chromium || command -v chromium-browser || command -v google-chrome
}

has_postgres() {
	compgen -G '/usr/lib/postgresql/*/bin/initdb' || command -v initdb
}

has_prometheus() {
	command -v prometheus && command -v promtool
}

as_root() {
	if [[ $EUID -eq 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "deps: neither root nor sudo here. Run as root: $*" >&2
		return 1
	fi
}

install_packages() {
	if [[ ${#packages[@]} -eq 0 ]]; then
		return
	fi
	if ! command -v apt-get >/dev/null; then
		echo "deps: apt is not here; please install: $(printf '%s, ' "${missing[@]}" | sed 's/, $//')" >&2
		return 1
	fi
	echo "deps: installing ${packages[*]}" >&2
	as_root apt-get update -qq
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
}

check_rust() {
	local version
	if ! version=$(cargo --version 2>/dev/null | cut -d' ' -f2); then
		echo "deps: Rust is missing: install $oldest_rust or newer (with rustup), then try again" >&2
		return 1
	fi
	if [[ $(printf '%s\n' "$oldest_rust" "$version" | sort -V | head -n 1) != "$oldest_rust" ]]; then
		echo "deps: Rust $version is too old: $oldest_rust or newer is needed (rustup update)" >&2
		return 1
	fi
}

rust_component() { # rust_component COMMAND COMPONENT
	if ! cargo "$1" --version >/dev/null 2>&1; then
		if ! command -v rustup >/dev/null; then
			echo "deps: \`cargo $1\` is missing: install the Rust component $2" >&2
			return 1
		fi
		rustup component add "$2"
	fi
}

need cmake cmake command -v cmake
need 'a C++ compiler' g++ command -v c++
need pkg-config pkg-config command -v pkg-config
need libclang libclang-dev has_libclang
need 'pip for Python 3' python3-pip python3 -m pip --version
if [[ "${1:-}" == test ]]; then
	need curl curl command -v curl
	need 'virtual environments for Python 3' python3-venv python3 -c 'import venv, ensurepip'
	need Node.js nodejs command -v node
	need npm npm command -v npm
	need Chromium chromium has_chromium
	# Private servers in temporary folders; the system's own, which the packages may start, are not used.
	need 'Prometheus with promtool' prometheus has_prometheus
	need PostgreSQL postgresql has_postgres
	# Looks at the unit file; nothing is started by it.
	need systemd-analyze systemd command -v systemd-analyze
fi
install_packages
check_rust
if [[ "${1:-}" == test ]]; then
	"$(dirname "${BASH_SOURCE[0]}")/../tests/compat/install.sh" >/dev/null
	"$(dirname "${BASH_SOURCE[0]}")/../tests/console/install.sh" >/dev/null
	"$(dirname "${BASH_SOURCE[0]}")/../tests/otlp/install.sh" >/dev/null
	rust_component fmt rustfmt
	rust_component clippy clippy
	"$(dirname "${BASH_SOURCE[0]}")/schemathesis.sh" install
fi
