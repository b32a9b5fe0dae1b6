#!/usr/bin/env bash
# Draws each dashboard from real query results into docs/images/: runs the integration test that puts a gateway into trouble under
# a real Prometheus, at a pace that gives something to see (some minutes), and draws what the panels were answered. Not Grafana:
# each picture says so. `draw-dashboards.sh FILE` draws answers that are there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

matplotlib=3.10.7
venv="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/spillway/matplotlib-$matplotlib"
if [[ ! -x "$venv/bin/python" ]] || ! "$venv/bin/python" -c 'import matplotlib' 2>/dev/null; then
	echo "draw-dashboards: installing matplotlib $matplotlib into $venv" >&2
	python3 -m venv "$venv"
	"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "matplotlib==$matplotlib"
fi

data=${1:-}
if [[ -z $data ]]; then
	data=$(mktemp --suffix .json)
	trap 'rm -f "$data"' EXIT
	CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 SPILLWAY_DASHBOARD_DATA=$data cargo test --release --locked --workspace --test integration -- \
		--exact operate::every_panel_and_every_rule_has_data_of_a_gateway_in_trouble_and_alerts_fire
fi
"$venv/bin/python" scripts/draw_dashboards.py "$data" dashboards docs/images
