#!/usr/bin/env bash
# `make bench`: what the gateway adds to a request, with everything switched on (keys, limits, budget, ledger, metrics,
# classifier), against a provider on this machine that answers at once. Further arguments are those of `spillway bench gateway`
# (ARGS="--json" of `make bench`); with --json nothing else goes to stdout.
#
# SPILLWAY names the binary. With nginx and wrk installed, the same load also goes from wrk to nginx directly and through the
# gateway, which says more about the gateway and less about who asks: our own client takes longer than nginx's answer.
set -euo pipefail
cd "$(dirname "$0")/.."
spillway="$(realpath "${SPILLWAY:-${CARGO_TARGET_DIR:-target}/release/spillway}")"
work="$(mktemp -d)"
pids=()
finish() {
	code=$?
	trap - EXIT
	((${#pids[@]})) && kill "${pids[@]}" 2>/dev/null || true
	wait 2>/dev/null || true
	((code)) && tail -n 20 "$work"/*.log >&2 || true
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

json=
for argument in "$@"; do [[ "$argument" == --json ]] && json=yes; done
api=18180 admin=18181 sim=18190 nginx=18191
model_lines() { # model_lines NAME
	printf '[[cloud.models]]\nname = "%s"\ncontext_tokens = 128000\ninput_usd_per_mtok = 0.15\ncached_usd_per_mtok = 0.075\n' "$1"
	printf 'output_usd_per_mtok = 0.60\nsource = "made up, for the ledger to have something to do"\nas_of = "2026-11-26"\n'
}
{
	printf 'local = []\n[server]\nlisten = "127.0.0.1:%s"\nadmin_listen = "127.0.0.1:%s"\nrequire_keys = true\nmax_inflight = 1024\n' $api $admin
	printf '[ledger]\nurl = "sqlite:%s/ledger.db"\n[keys]\nfile = "%s/keys.json"\n' "$work" "$work"
	printf '[[cloud]]\nname = "sim"\nbase_url = "http://127.0.0.1:%s/v1"\napi_keys_env = ["BENCH_KEY"]\nsimulated = true\nmax_concurrency = 1024\n' $sim
	model_lines ok
	printf '[[cloud]]\nname = "nginx"\nbase_url = "http://127.0.0.1:%s/v1"\napi_keys_env = ["BENCH_KEY"]\nsimulated = true\nmax_concurrency = 1024\n' $nginx
	model_lines whole
	for tier in trivial moderate complex premium; do
		printf '[router.rules.%s]\nprefer = ["ok"]\nfallback = []\n' $tier
	done
} >"$work/gateway.toml"

"$spillway" sim --listen 127.0.0.1:$sim --tokens 64 >"$work/sim.log" 2>&1 &
pids+=("$!")
export BENCH_KEY=bench
"$spillway" serve --config "$work/gateway.toml" >"$work/gateway.log" 2>&1 &
gateway=$!
pids+=("$gateway")
for _ in $(seq 100); do
	curl -fs -o /dev/null "http://127.0.0.1:$api/ready" && break
	kill -0 "$gateway"
	sleep 0.1
done
key=$("$spillway" keys create --config "$work/gateway.toml" --name bench --budget-total 1000000 --concurrency 2048 \
	--requests-per-minute 100000000 --tokens-per-minute 1000000000 2>"$work/keys.log")
idle=$(awk '/VmRSS/{print int($2/1024)}' "/proc/$gateway/status")
say() { if [[ -n "$json" ]]; then echo "$@" >&2; else echo "$@"; fi; }
say "$(date -u +%F), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg), $("$spillway" --version); the gateway idle: $idle MiB"
SPILLWAY_API_KEY="$key" "$spillway" bench gateway --url "http://127.0.0.1:$api/v1" --direct "http://127.0.0.1:$sim/v1" \
	--model ok --pid "$gateway" "$@"
# Requests at their times, whether or not those before were answered: at half of what two cores do, and at a rate that they hardly do.
if (($# == 0)); then
	for load in "whole 1000" "whole 2000" "stream 400" "stream 800"; do
		read -r kind rate <<<"$load"
		echo
		echo "$rate a second:"
		SPILLWAY_API_KEY="$key" "$spillway" bench gateway --url "http://127.0.0.1:$api/v1" --direct "http://127.0.0.1:$sim/v1" \
			--model ok --pid "$gateway" --kinds "$kind" --connections 64 --rate "$rate"
	done
fi

if [[ -z "$json" ]] && command -v nginx >/dev/null && command -v wrk >/dev/null; then
	answer='{"id":"c","object":"chat.completion","created":1700000000,"model":"whole","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}'
	cat >"$work/nginx.conf" <<-END
		worker_processes 1;
		daemon off;
		pid $work/nginx.pid;
		error_log $work/nginx.log;
		events { worker_connections 4096; }
		http {
			access_log off;
			keepalive_requests 1000000000;
			server {
				listen 127.0.0.1:$nginx;
				location / { default_type application/json; return 200 '$answer'; }
			}
		}
	END
	nginx -c "$work/nginx.conf" 2>>"$work/nginx.log" &
	pids+=("$!")
	for _ in $(seq 50); do
		curl -fs -o /dev/null "http://127.0.0.1:$nginx/" && break
		sleep 0.1
	done
	cat >"$work/post.lua" <<-'END'
		wrk.method = "POST"
		wrk.headers["Content-Type"] = "application/json"
		wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY")
		wrk.body = '{"model":"whole","messages":[{"role":"user","content":"Hello, how are you today?"}]}'
		function done(summary, latency)
		  io.write(string.format("%7.0f/s  p50 %.3f ms  p99 %.3f ms  failed %d\n", summary.requests / (summary.duration / 1e6),
		    latency:percentile(50) / 1000, latency:percentile(99) / 1000, summary.errors.status + summary.errors.timeout))
		end
	END
	cpu() { awk '{print $14 + $15}' "/proc/$gateway/stat"; }
	echo
	echo "wrk, 10 connections, whole answers of nginx:"
	for _ in 1 2 3; do
		printf 'direct   '
		KEY=none wrk -t1 -c10 -d4s -s "$work/post.lua" "http://127.0.0.1:$nginx/v1/chat/completions" | grep '/s  p50'
		before=$(cpu)
		line=$(KEY="$key" wrk -t1 -c10 -d4s -s "$work/post.lua" "http://127.0.0.1:$api/v1/chat/completions" | grep '/s  p50')
		printf 'gateway  %s  %.0f µs of processor time a request\n' "$line" \
			"$(awk -v ticks=$(($(cpu) - before)) -v rate="${line%%/*}" 'BEGIN { print ticks * 10000 / (rate * 4) }')"
	done
fi
