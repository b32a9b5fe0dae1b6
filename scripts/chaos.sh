#!/usr/bin/env bash
# `make chaos`: two simulated providers, a gateway that may be harmed (config/chaos/gateway.toml), and one run against it.
#   scripts/chaos.sh SCENARIO [further arguments of `spillway chaos run`]
# `make soak`: the same instance with everything that is on by default or that a site would switch on (adaptive admission, the
# learned classifier, a SQLite ledger, a key with limits and a budget), gently and for long:
#   scripts/chaos.sh --soak [arguments of `spillway bench soak`]
# SPILLWAY names the binary. The gateway's log is shown when the run was not a good one.
set -euo pipefail
cd "$(dirname "$0")/.."
spillway="${SPILLWAY:-${CARGO_TARGET_DIR:-target}/release/spillway}"
# The first backtrace of a process reads all its debug information, which would drown what memory is measured.
export RUST_BACKTRACE=0
work="$(mktemp -d)"
log="$work/log"
pids=()
finish() {
    code=$?
    trap - EXIT
    ((${#pids[@]})) && kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    if ((code)); then
        grep -v ' INFO ' "$log" | tail -n 20 >&2 || true
    fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

for port in 19101 19102; do
    "$spillway" sim --listen "127.0.0.1:$port" --ttft-ms 20 --tokens-per-second 40 --tokens 4000 >>"$log" 2>&1 &
    pids+=("$!")
done
config=config/chaos/gateway.toml
if [[ "${1:-}" == --soak ]]; then
    export SPILLWAY__SERVER__ADAPTIVE_ADMISSION=true SPILLWAY__SERVER__REQUIRE_KEYS=true SPILLWAY__ROUTER__CLASSIFIER=learned
    export SPILLWAY__LEDGER__URL="sqlite:$work/ledger.db" SPILLWAY__LEDGER__BASELINE_MODEL=west-large
    export SPILLWAY__KEYS__FILE="$work/keys.json"
fi
"$spillway" serve --config "$config" >>"$log" 2>&1 &
gateway=$!
pids+=("$gateway")
for _ in $(seq 200); do
    curl -fs -o /dev/null http://127.0.0.1:18080/health && break
    kill -0 "$gateway" 2>/dev/null || { echo "the gateway ended at once" >&2; exit 1; }
    sleep 0.1
done
at=(--url http://127.0.0.1:18080 --admin http://127.0.0.1:18081)
if [[ "${1:-}" == --soak ]]; then
    # Limits that count and do not bind, for any load that two cores carry.
    key=$("$spillway" keys create --config "$config" --name soak --requests-per-minute 100000 --tokens-per-minute 100000000 \
        --concurrency 2048 --budget-day 100000 --budget-total 1000000 2>>"$log")
    SPILLWAY_API_KEY="$key" "$spillway" bench soak "${@:2}" "${at[@]}" --pid "$gateway" --embedding-model east-embed
else
    "$spillway" chaos run "$@" "${at[@]}"
fi
