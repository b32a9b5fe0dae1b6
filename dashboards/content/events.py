"""What happened, as marks on the time axis."""

from grafana import annotation

# Both counters exist, at 0, from the first moment of an actor and a target: no death is missed.
DEATHS = [
    annotation("Engine deaths", "engine", "sum by (instance, gpu, cause) (increase(spillway_engine_deaths_total{@}[~])) > 0",
               "{{instance}} {{gpu}}: {{cause}}", "red"),
    annotation("Actor deaths", "actor", "sum by (actor, cause) (increase(spillway_actor_restarts_total{@}[~])) > 0",
               "{{actor}}: {{cause}}", "orange"),
]
# Began since the last look, or grew: a death that was ordered is the first of its kind more often than not.
ORDERED = annotation(
    "Ordered by chaos", "chaos",
    "sum by (actor, how) (increase(spillway_chaos_orders_total{@}[~])) > 0 or sum by (actor, how) "
    "(spillway_chaos_orders_total{@} unless spillway_chaos_orders_total{@} offset 1m)",
    "chaos: {{actor}} {{how}}", "purple")
