"""Cost and budgets: what is spent, what is not, what is left, and whether it is written down."""

from grafana import Panel, Row, dashboard, variable

MODEL = '@, model=~"$model"'
LEFT = [(None, "red"), (0.1, "orange"), (0.3, "green")]
USD_AN_HOUR = "3600e-9"


def quantile(share, histogram):
    return f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket{{@}}[~])))"


BOARD = dashboard(
    "spillway-cost", "Spillway: cost and budgets",
    "What providers bill, what was saved against the baseline model, budgets, and the ledger",
    [
        Row("In the chosen range",
            Panel("Spent", "What providers bill for it", "currencyUSD",
                  ("1e-9 * sum(increase(spillway_cost_nanousd_total{@}[=]))", "spent"), kind="stat", width=4, height=4),
            Panel("Saved", "What the baseline model would have cost, minus what was spent", "currencyUSD",
                  ("1e-9 * sum(increase(spillway_saved_nanousd_total{@}[=]))", "saved"), kind="stat", width=4, height=4),
            Panel("Saved share", "Saved, of saved and spent together", "percentunit",
                  ("sum(increase(spillway_saved_nanousd_total{@}[=])) / (sum(increase(spillway_saved_nanousd_total{@}[=])) "
                   "+ sum(increase(spillway_cost_nanousd_total{@}[=])))", "saved"), kind="stat", width=4, height=4),
            Panel("Budget left", "Of the tightest bound: the operator's own (all), or the key that is nearest to its own "
                  "(keys)", "percentunit",
                  ("min by (key_group) (spillway_budget_remaining_ratio{@})", "{{key_group}}"), kind="stat", width=4,
                  height=4, steps=LEFT),
            Panel("Set aside", "Reserved for paid attempts under way", "currencyUSD",
                  ("1e-9 * sum(spillway_ledger_reserved_nanousd{@})", "reserved"), kind="stat", width=4, height=4),
            Panel("Ledger", "While it cannot write, nothing paid may start", "short",
                  ("min(spillway_ledger_up{@})", "ledger"), kind="stat", width=4, height=4,
                  steps=[(None, "red"), (1, "green")], names={0: ("down", "red"), 1: ("up", "green")})),
        Row("Money",
            Panel("Cost per hour", "By model, at the pace of the last minutes", "currencyUSD",
                  (f"{USD_AN_HOUR} * sum by (model) (rate(spillway_cost_nanousd_total{{{MODEL}}}[~]))", "{{model}}"),
                  stack=True),
            Panel("Saved per hour", "Against the baseline model of [ledger] baseline_model, beside what is spent",
                  "currencyUSD", (f"{USD_AN_HOUR} * sum(rate(spillway_saved_nanousd_total{{@}}[~]))", "saved"),
                  (f"{USD_AN_HOUR} * sum(rate(spillway_cost_nanousd_total{{@}}[~]))", "spent")),
            Panel("Budget left", "Share of the tightest bound of day, month and key; at 0 only local targets serve",
                  "percentunit", ("min by (key_group) (spillway_budget_remaining_ratio{@})", "{{key_group}}"),
                  min=0, max=1, steps=LEFT),
            Panel("Cost of 1,000 tokens", "Over all targets: what local ones answer costs nothing here", "currencyUSD",
                  ("1e-6 * sum(rate(spillway_cost_nanousd_total{@}[~])) / sum(rate(spillway_tokens_total{@}[~]))",
                   "1,000 tokens"), decimals=6),
            Panel("Cost of 1,000 tokens by model", "What the models that cost anything really cost, input and output together",
                  "currencyUSD",
                  (f"1e-6 * (sum by (model) (rate(spillway_cost_nanousd_total{{{MODEL}}}[~])) > 0) / "
                   f"sum by (model) (rate(spillway_tokens_total{{{MODEL}}}[~]))", "{{model}}"), decimals=6),
            Panel("Tokens by model", "Read and written, a second", "short",
                  (f"sum by (model, direction) (rate(spillway_tokens_total{{{MODEL}}}[~]))",
                   "{{model}} {{direction}} /s"))),
        Row("Keys and refusals",
            Panel("Requests by key group", "Requests that came with a key, by its group; none = a key was required and no known one came",
                  "reqps", ("sum by (key_group) (rate(spillway_key_requests_total{@}[~]))", "{{key_group}}")),
            Panel("What the key check said", "let_in, or why not", "reqps",
                  ("sum by (outcome) (rate(spillway_key_requests_total{@}[~]))", "{{outcome}}")),
            Panel("Keys", "API keys in the store; unusable ones were made with another pepper", "short",
                  ("max by (state) (spillway_keys{@})", "{{state}}"), kind="stat", width=4),
            Panel("Out of money", "Requests that ended with insufficient_quota in the chosen range", "short",
                  ('sum(increase(spillway_requests_total{@, outcome="insufficient_quota"}[=])) or vector(0)', "requests"),
                  kind="stat", width=4, steps=[(None, "green"), (1, "red")])),
        Row("The ledger",
            Panel("Wait for a record", "Before a paid attempt may start, its reservation is on disk", "s",
                  (quantile(0.5, "spillway_ledger_commit_seconds"), "p50"),
                  (quantile(0.99, "spillway_ledger_commit_seconds"), "p99")),
            Panel("Journal", "On disk, until the database has it all", "bytes",
                  ("spillway_ledger_journal_bytes{@}", "{{instance}}"), min=0),
            Panel("Not in the database yet", "Records of the journal that the database still lacks", "short",
                  ("spillway_ledger_unapplied_records{@}", "{{instance}}"), width=4, min=0),
            Panel("Rows dropped", "Rows without cost that a full disk left no room for, in the chosen range", "short",
                  ("sum(increase(spillway_ledger_rows_dropped_total{@}[=]))", "rows"), kind="stat", width=4,
                  steps=[(None, "green"), (1, "red")])),
    ],
    variables=[variable("model", "Model", 'label_values(spillway_tokens_total{job=~"$job"}, model)',
                        "By its name in the configuration; other = found at run time")],
)
