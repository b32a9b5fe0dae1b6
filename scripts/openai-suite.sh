#!/usr/bin/env bash
# Runs the test suite that OpenAI ships inside the source package of its Python client (strict validation of every answer)
# against a gateway with the real engine and the simulated cloud, and reports what passed, per resource. `make build model`
# must have run. A resource can be named: scripts/openai-suite.sh chat/test_completions.py
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
spillway=${CARGO_TARGET_DIR:-$root/target}/release/spillway
version=$(sed -n 's/^openai==//p' "$root/tests/compat/requirements.txt")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spillway/compat/suite-$version
resources=("$@")
if [[ ${#resources[@]} -eq 0 ]]; then
	resources=(test_models.py chat/test_completions.py test_completions.py test_embeddings.py test_responses.py)
fi

if [[ ! -e $cache/ready ]]; then
	rm -rf "$cache"
	mkdir -p "$cache"
	python3 -m venv "$cache/python"
	pip() { "$cache/python/bin/pip" --quiet --disable-pip-version-check "$@"; }
	# Only as source does the package hold its tests.
	pip download --no-binary openai --no-deps -d "$cache" "openai==$version"
	tar -xzf "$cache/openai-$version.tar.gz" -C "$cache"
	pip install "openai[aiohttp]==$version" -r "$root/tests/compat/suite-requirements.txt"
	touch "$cache/ready"
fi

work=$(mktemp -d)
children=()
finish() {
	kill "${children[@]}" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
sim=$(free_port) api=$(free_port) admin=$(free_port)
cat >"$work/spillway.toml" <<TOML
[server]
listen = "127.0.0.1:$api"
admin_listen = "127.0.0.1:$admin"
[[local]]
name = "local"
[local.defaults]
max_tokens = 16
[[cloud]]
name = "sim"
base_url = "http://127.0.0.1:$sim/v1"
api_keys_env = ["OPENAI_SUITE_KEY"]
[[cloud.models]]
name = "ok"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
# What this local model cannot do and the suite asks for: text between two texts, vectors of a wanted length. The suite's
# own name for its embedding model, because no model stands in for another there.
[[cloud.models]]
name = "texts"
upstream = "ok"
kind = "completion"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
[[cloud.models]]
name = "text-embedding-3-small"
upstream = "ok"
kind = "embedding"
input_usd_per_mtok = 0
[router]
unknown_models = "auto"
$(for tier in trivial moderate complex premium; do
	printf '[router.rules.%s]\nprefer = ["local"]\nfallback = ["ok", "texts"]\nmax_latency_ms = 60000\n' "$tier"
done)
[ledger]
url = "memory:"
baseline_model = ""
TOML
"$spillway" sim --listen "127.0.0.1:$sim" >"$work/sim.log" 2>&1 &
children+=($!)
OPENAI_SUITE_KEY=any "$spillway" serve --config "$work/spillway.toml" >"$work/gateway.log" 2>&1 &
children+=($!)
serves() { curl -sf "http://127.0.0.1:$admin/admin/status" | grep -q '"serving":true'; }
for _ in $(seq 300); do
	if serves; then break; fi
	sleep 0.1
done
serves || { cat "$work/gateway.log"; exit 1; }

cd "$cache/openai-$version"
status=0
TEST_API_BASE_URL="http://127.0.0.1:$api/v1" "$cache/python/bin/python" -m pytest -o addopts= -q --tb=line -p no:cacheprovider \
	--junit-xml="$work/report.xml" "${resources[@]/#/tests/api_resources/}" >"$work/pytest.log" 2>&1 || status=$?
[[ -e $work/report.xml ]] || { cat "$work/pytest.log"; exit 1; }
python3 "$root/tests/compat/suite_report.py" "$work/report.xml"
exit $((status > 1 ? status : 0))
