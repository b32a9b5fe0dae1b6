"""The ratios that people look at, once, as recording rules. Everything is per `job`: the gateways of one job are one service."""

HEAD = """\
# Written by dashboards/generate.py; the source is dashboards/content/rules.py. Recording rules: the ratios that people look at,
# once. Everything is per `job`, so that several gateways of one job are one service. Alerts are in alerts.yml;
# tests/prometheus/rules_test.yml shows what both make of given series.
"""

# Which requests count for the success objective: those that somebody could have answered. A client that left, or asked for
# something invalid, forbidden or unpaid, says nothing of the service; what was refused because too much was in work does.
FAULTS = "unavailable|upstream|timeout|internal|rate_limited|local_only_unavailable|shutting_down"
OBJECTIVE = 0.997
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# Those whose errors are counted, in seconds: a pace says nothing where one failure is a large share of what came.
COUNTED = {"1h": 3600, "6h": 21600, "1d": 86400, "3d": 259200}


def errors(window):
    """Of a service without any, 0 and not nothing: the second counter exists from the start."""
    zero = f"0 * sum by (job) (rate(spillway_requests_refused_total[{window}]))"
    failed = f'sum by (job) (rate(spillway_requests_total{{outcome=~"{FAULTS}"}}[{window}]))'
    refused = f'sum by (job) (rate(spillway_requests_refused_total{{reason="full"}}[{window}]))'
    return f"({failed} or {zero}) + {refused}"


def good(window):
    zero = f"0 * sum by (job) (rate(spillway_requests_refused_total[{window}]))"
    return f'(sum by (job) (rate(spillway_requests_total{{outcome="ok"}}[{window}])) or {zero})'


# Which targets are local is told by the gauge of their state.
LOCAL = ('on (job, instance, target) group_left () max by (job, instance, target) '
         '(label_replace(spillway_gpu_state * 0 + 1, "target", "$1", "gpu", "(.+)"))')


def local_share(counter):
    return (f"sum by (job) (rate({counter}[5m]) * {LOCAL}) / sum by (job) (rate({counter}[5m]))")


def within(histogram, bound, matchers=""):
    inner = f'{{{matchers}}}' if matchers else ""
    less = f'{{{matchers}, le="{bound}"}}' if matchers else f'{{le="{bound}"}}'
    return (f"sum by (job) (rate({histogram}_bucket{less}[5m])) / sum by (job) (rate({histogram}_count{inner}[5m]))")


def quantile(share, histogram, by="job"):
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({histogram}_bucket[5m])))"


MONEY = "(sum by (job) (rate(spillway_cost_nanousd_total[{0}])) + sum by (job) (rate(spillway_saved_nanousd_total[{0}])))"


def groups():
    slo = [("spillway:slo:objective", f"vector({OBJECTIVE})")]
    for window in WINDOWS:
        slo += [
            (f"spillway:slo_errors:rate{window}", errors(window)),
            (f"spillway:slo_error:ratio_rate{window}",
             f"spillway:slo_errors:rate{window} / (spillway:slo_errors:rate{window} + {good(window)})"),
            # 1 = errors come as fast as the objective allows for ever.
            (f"spillway:slo_error:burn_rate{window}",
             f"spillway:slo_error:ratio_rate{window} / (1 - scalar(spillway:slo:objective))"),
        ]
        if window in COUNTED:
            slo.append((f"spillway:slo_errors:increase{window}",
                        f"round({COUNTED[window]} * spillway:slo_errors:rate{window})"))
    slo.append(("spillway:success:ratio_rate5m", "1 - spillway:slo_error:ratio_rate5m"))
    slo.append(("spillway:error_budget:remaining_ratio3d", "1 - spillway:slo_error:burn_rate3d"))
    ratios = [
        ("spillway:requests:rate5m", "sum by (job) (rate(spillway_requests_total[5m]))"),
        ("spillway:local_requests:ratio_rate5m", local_share('spillway_requests_total{outcome="ok"}')),
        ("spillway:local_tokens:ratio_rate5m", local_share("spillway_tokens_total")),
        ("spillway:saved:ratio_rate1h", f"sum by (job) (rate(spillway_saved_nanousd_total[1h])) / {MONEY.format('1h')}"),
        ("spillway:cost_usd_per_hour:rate1h", "3600e-9 * sum by (job) (rate(spillway_cost_nanousd_total[1h]))"),
        ("spillway:prefix_hits:ratio_rate5m",
         "sum by (job, target) (rate(spillway_prefix_cache_hit_tokens_total[5m])) / "
         'sum by (job, target) (rate(spillway_tokens_total{direction="in"}[5m]))'),
        ("spillway:overhead_within_5ms:ratio_rate5m", within("spillway_overhead_seconds", "0.005")),
        ("spillway:failover_within_200ms:ratio_rate5m",
         within("spillway_failover_seconds", "0.2", 'stage="redispatch"')),
        ("spillway:recovery_within_3s:ratio_rate5m", within("spillway_recovery_seconds", "3")),
        ("spillway:request_duration_seconds:p50_5m", quantile(0.5, "spillway_request_duration_seconds")),
        ("spillway:request_duration_seconds:p99_5m", quantile(0.99, "spillway_request_duration_seconds")),
        ("spillway:time_to_first_token_seconds:p95_5m",
         quantile(0.95, "spillway_time_to_first_token_seconds", "job, target")),
        ("spillway:queue_wait_seconds:p95_5m", quantile(0.95, "spillway_queue_wait_seconds")),
    ]
    return [("spillway_slo", slo), ("spillway_ratios", ratios)]


def text():
    lines = [HEAD + "groups:"]
    for name, rules in groups():
        lines += [f"  - name: {name}", "    rules:"]
        for record, expr in rules:
            lines += [f"      - record: {record}", f"        expr: >-\n          {expr}"]
    return "\n".join(lines) + "\n"
