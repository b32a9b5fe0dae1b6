#!/usr/bin/env bash
# Sends generated requests, good and bad ones, to a running gateway and holds every answer against its own OpenAPI
# document: schemathesis.sh [CASES]. No answer may be 500 or above, or have a status, type or shape that is not documented.
# The cloud is `spillway sim`; the local engine answers with a few tokens.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cases=${1:-200}
version=4.32.5
venv="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/spillway/schemathesis-$version"
spillway="${CARGO_TARGET_DIR:-target}/release/spillway"

if [[ ! -x "$venv/bin/schemathesis" ]]; then
	echo "schemathesis: installing $version into $venv" >&2
	python3 -m venv "$venv"
	"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "schemathesis==$version"
fi
[[ $cases == install ]] && exit

work=$(mktemp -d)
children=()
finish() {
	for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
	wait || true
	rm -rf "$work"
}
trap finish EXIT

# address LOG PATTERN: the first match in a log that is being written.
address() {
	local found
	for _ in $(seq 300); do
		if found=$(grep -oEm1 "$2" "$1"); then
			echo "$found"
			return
		fi
		sleep 0.1
	done
	echo "schemathesis: nothing like $2 in the log:" >&2
	cat "$1" >&2
	return 1
}

"$spillway" sim --listen 127.0.0.1:0 --tokens 6 >"$work/sim.log" 2>&1 &
children+=($!)
cloud=$(address "$work/sim.log" 'http://[0-9.]+:[0-9]+/v1')
cat >"$work/spillway.toml" <<TOML
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[[local]]
name = "local"
model = "smollm2-135m"
gpu = "cpu"
[local.defaults]
max_tokens = 4
max_output_tokens = 4
[[cloud]]
name = "sim"
base_url = "$cloud"
simulated = true
[[cloud.models]]
name = "sim-model"
input_usd_per_mtok = 1
output_usd_per_mtok = 1
[router.rules.trivial]
prefer = ["local"]
fallback = ["sim-model"]
[router.rules.moderate]
prefer = ["local"]
fallback = ["sim-model"]
[router.rules.complex]
prefer = ["sim-model"]
[router.rules.premium]
prefer = ["sim-model"]
[ledger]
url = "memory:"
baseline_model = ""
TOML
SPILLWAY_LOG=warn "$spillway" serve --config "$work/spillway.toml" >"$work/gateway.log" 2>&1 &
gateway=$!
children+=("$gateway")
api=$(address "$work/gateway.log" 'http://[0-9.]+:[0-9]+/v1')
api=${api%/v1}
for _ in $(seq 300); do
	curl -sf "$api/ready" >/dev/null && break
	sleep 0.1
done

curl -sf "$api/openapi.json" >"$work/openapi.json"
# How many operations there are, and how many of them take a body.
read -r operations bodies < <(python3 -c '
import json, sys
paths = json.load(open(sys.argv[1]))["paths"]
methods = {"get", "post", "put", "delete", "patch"}
all = [path[method] for path in paths.values() for method in path if method in methods]
print(len(all), sum("requestBody" in operation for operation in all))' "$work/openapi.json")

# round EXAMPLES SEED PHASES: at most so many examples of each operation.
round() {
	(cd "$work" && "$venv/bin/schemathesis" run "$api/openapi.json" \
		--checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
		--phases "$3" --max-examples "$1" \
		--request-timeout 60 --workers 2 --seed "$2" --generation-database none --continue-on-failure \
		--suppress-health-check all --warnings off) | tee "$work/summary"
}

echo "schemathesis: $cases cases over $operations operations" >&2
status=0
seed=${SEED:-1}
if ((cases <= 1000)); then
	round $(((cases + operations - 1) / operations)) "$seed" fuzzing || status=$?
else
	# A long run also walks through every boundary of the document, once. What has no body is soon exhausted, so that a round
	# falls short of what it was asked for: rounds follow, each with a seed of its own.
	phases=examples,coverage,fuzzing
	sent=0
	while ((sent < cases)); do
		round $(((cases - sent + bodies - 1) / bodies)) "$seed" "$phases" || status=$?
		fresh=$(grep -oE '[0-9]+ generated' "$work/summary" | grep -oE '[0-9]+' || echo 0)
		((fresh > 0)) || break
		((sent += fresh, seed += 1))
		phases=fuzzing
	done
	echo "schemathesis: $sent cases were sent" >&2
	((sent >= cases)) || status=1
fi
if ! kill -0 "$gateway" 2>/dev/null; then
	echo "schemathesis: the gateway has died" >&2
	status=1
fi
if grep -q panicked "$work/gateway.log"; then
	grep -B 2 -A 10 panicked "$work/gateway.log" >&2
	status=1
fi
exit "$status"
