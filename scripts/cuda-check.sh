#!/usr/bin/env bash
# Compiles and links the engine for CUDA, then starts it and the gateway here, whether or not this host has a GPU.
# Takes the toolkit of this host (CUDA_HOME, or nvcc on the PATH), else puts one together from NVIDIA's Python wheels
# in the cache. Builds for one architecture, without flash attention and with little optimisation, which takes a third of
# the time and links the same way: what comes out is for checking, not for use.
#
#   CUDA_ARCH=86             the architecture to compile for
#   CUDA_CHECK_JOBS=N        compilers at a time; default: all cores
#   CUDA_CHECK_TARGET=DIR    where to build; default: in the cache, so that a second run takes seconds
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/spillway/cuda"
export CARGO_TARGET_DIR="${CUDA_CHECK_TARGET:-$cache/target}"
jobs="${CUDA_CHECK_JOBS:-$(nproc)}"
# Of one release: a runtime newer than its compiler does not compile. The other two count their versions by themselves.
release=13.5
wheels=(nvidia-cuda-nvcc nvidia-cuda-crt nvidia-cuda-runtime nvidia-nvvm)
own_versions=('nvidia-cuda-cccl==13.3.*' 'nvidia-cublas==13.*')

summary=()
failed=0
note() { # note WORD TEXT: one line of the summary; any word but ok, here and info is a failure
	summary+=("$(printf '%-6s %s' "$1" "$2")")
	[[ $1 == ok || $1 == here || $1 == info ]] || failed=1
}

wheel_toolkit() { # the folder of a toolkit made of wheels
	local site="$cache/wheels" toolkit="$cache/wheels/nvidia/cu13"
	if [[ ! -e "$site/complete-$release" ]]; then
		echo "cuda-check: fetching CUDA $release as Python wheels into $site" >&2
		rm -rf "$site"
		python3 -m pip install --quiet --no-deps --target "$site" "${wheels[@]/%/==$release.*}" "${own_versions[@]}" >&2
		touch "$site/complete-$release"
	fi
	# Wheels have `lib` and names with a version; compilers ask for `lib64` and names without.
	ln -sfn lib "$toolkit/lib64"
	local library plain
	for library in "$toolkit"/lib/lib*.so.*; do
		plain="${library%%.so.*}.so"
		[[ -e "$plain" ]] || ln -s "$(basename "$library")" "$plain"
	done
	# The driver's library comes with a driver; to link a plug-in its name is enough.
	if [[ ! -e "$toolkit/lib/stubs/libcuda.so" ]]; then
		mkdir -p "$toolkit/lib/stubs"
		cc -shared -Wl,-soname,libcuda.so.1 -o "$toolkit/lib/stubs/libcuda.so" -x c /dev/null
	fi
	chmod -R u+x "$toolkit/bin" "$toolkit/nvvm/bin" 2>/dev/null || true
	echo "$toolkit"
}

find_toolkit() {
	if [[ -n "${CUDA_HOME:-}" && -x "$CUDA_HOME/bin/nvcc" ]]; then
		echo "$CUDA_HOME"
	elif command -v nvcc >/dev/null; then
		dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")"
	else
		wheel_toolkit
	fi
}

build() { # compiles llama.cpp with CUDA, then the engine and the gateway
	export CUDACXX="$toolkit/bin/nvcc" CUDAToolkit_ROOT="$toolkit" CUDA_PATH="$toolkit"
	export CMAKE_CUDA_ARCHITECTURES="${CUDA_ARCH:-86}" GGML_CUDA_FA=OFF CMAKE_BUILD_PARALLEL_LEVEL="$jobs"
	if "$toolkit/bin/nvcc" --help | grep -q -- --Ofast-compile; then
		export CMAKE_CUDA_FLAGS_RELEASE="-O1 -DNDEBUG --Ofast-compile=max"
	fi
	# A plug-in finds the toolkit's libraries where they were when it was linked.
	export CMAKE_INSTALL_RPATH_USE_LINK_PATH=TRUE
	cargo build --release --locked --jobs "$jobs" --bins --workspace --features spillway-engine/cuda
}

serves() { # the gateway starts with this engine and its CPU serves, or says why not
	local log="$cache/serve.log" api=18480 admin=18481 answer
	SPILLWAY__LEDGER__URL=memory: SPILLWAY__SERVER__LISTEN="127.0.0.1:$api" SPILLWAY__SERVER__ADMIN_LISTEN="127.0.0.1:$admin" \
		"$release_dir/spillway" serve >"$log" 2>&1 &
	local gateway=$!
	for _ in $(seq 300); do
		if curl -sf -o /dev/null "http://127.0.0.1:$api/ready"; then break; fi
		kill -0 "$gateway" 2>/dev/null || break
		sleep 0.2
	done
	answer=$(curl -s --max-time 120 "http://127.0.0.1:$api/v1/completions" -H 'content-type: application/json' \
		-d '{"model":"local","prompt":"The capital of France is","max_tokens":8,"temperature":0}' || true)
	kill "$gateway" 2>/dev/null || true
	wait "$gateway" || true
	if grep -q '"tokens_generated"' <<<"$answer"; then
		note ok "the gateway starts, its local model answers: $(sed -E 's/.*"text":"([^"]*)".*/\1/' <<<"$answer" | head -c 60)"
	else
		note FAILED "no answer from the gateway: ${answer:-none}; its log is $log"
	fi
}

if [[ -e /proc/driver/nvidia/version ]] || ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then
	note here "an NVIDIA driver"
else
	note here "no NVIDIA driver: kernels are compiled, not run"
fi
toolkit=$(find_toolkit)
nvcc_release=$("$toolkit/bin/nvcc" --version | sed -nE 's/.*(V[0-9.]+).*/\1/p')
note info "toolkit $nvcc_release at $toolkit"
started=$SECONDS
if build; then
	note ok "compiled and linked for architecture ${CUDA_ARCH:-86} in $((SECONDS - started)) s with $jobs compilers at a time"
else
	note FAILED "the build"
fi

release_dir="$CARGO_TARGET_DIR/release"
if [[ $failed == 0 ]]; then
	plugin=$(find "$release_dir/build" -path '*/out/backends/libggml-cuda.so' -print -quit)
	if [[ -n "$plugin" ]] && cuobjdump=$(command -v cuobjdump || ls "$toolkit/bin/cuobjdump" 2>/dev/null); then
		note info "kernels: $("$cuobjdump" --list-elf "$plugin" | wc -l) ELF images"
	fi
	note "$([[ -n "$plugin" ]] && echo ok || echo FAILED)" "libggml-cuda.so: $(du -h "${plugin:-/dev/null}" | cut -f1)B, needs $(readelf -d "${plugin:-/dev/null}" 2>/dev/null | sed -nE 's/.*NEEDED.*\[(lib(cu|nv)[^]]*)\].*/\1/p' | paste -sd' ')"
	if readelf -d "$release_dir/spillway" "$release_dir/spillway-engine" | grep -qE 'NEEDED.*lib(cuda|cudart|cublas)'; then
		note FAILED "an executable needs CUDA to start"
	else
		note ok "neither executable needs CUDA to start"
	fi
	if devices=$("$release_dir/spillway-engine" --list-devices 2>"$cache/devices.log"); then
		note ok "the engine lists: $(paste -sd';' <<<"$devices")"
	else
		note FAILED "the engine does not start: $(tail -n 1 "$cache/devices.log")"
	fi
	"$release_dir/spillway" models pull smollm2-135m
	serves
fi

echo
echo "cuda-check:"
printf '  %s\n' "${summary[@]}"
exit "$failed"
