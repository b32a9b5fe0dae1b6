#!/usr/bin/env bash
# Runs the fuzz targets one after another: fuzz.sh SECONDS [TARGET...]. What is found is kept in fuzz/artifacts; the
# growing corpora live beside the build artefacts, only the seeds are in the repository.
#
# The stable toolchain has all it takes (coverage instrumentation and libFuzzer), it only asks to be told so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo_fuzz_version=0.13.2
seconds=${1:-600}
shift || true
tools="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/spillway/tools"
work="${CARGO_TARGET_DIR:-target}/fuzz"
export PATH="$tools/bin:$PATH" RUSTC_BOOTSTRAP=1
unset CARGO_TARGET_DIR

if ! cargo-fuzz --version 2>/dev/null | grep -qF "$cargo_fuzz_version"; then
	echo "fuzz: installing cargo-fuzz $cargo_fuzz_version" >&2
	CARGO_TARGET_DIR="$work/tools" cargo install cargo-fuzz --version "$cargo_fuzz_version" --locked --root "$tools"
fi

targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
	for path in fuzz/targets/*.rs; do targets+=("$(basename "$path" .rs)"); done
fi
# Without a sanitizer: the code under test is safe Rust, and inputs per second are what finds its panics.
cargo fuzz build --sanitizer none --target-dir "$work/build"
for target in "${targets[@]}"; do
	mkdir -p "$work/corpus/$target"
	echo "fuzz: $target for $seconds s" >&2
	cargo fuzz run "$target" --sanitizer none --target-dir "$work/build" "$work/corpus/$target" "fuzz/seeds/$target" -- \
		-max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 -verbosity="${FUZZ_VERBOSITY:-1}"
done
