//! Usage as people and programs read it: a table, CSV or JSON, in dollars and, where configured, in a second currency and
//! with the electricity of local answers beside. Pure.

use super::csv::{Field, record};
use serde_json::{Value, json};
use spillway_actors::{
    config::{Config, CurrencyConfig, EnergyConfig},
    domain::{NanoUsd, UnixMs},
    keys::Keys,
    ledger::{
        AttemptRow,
        store::{By, Line, Sums},
    },
};
use std::{collections::BTreeMap, fmt::Write as _};

const MJ_PER_KWH: u128 = 3_600_000_000;

pub(crate) struct View {
    by: By,
    lines: Vec<Line>,
    energy: EnergyConfig,
    currency: Option<CurrencyConfig>,
    /// What was saved is known: there is something to measure it against, or there was.
    has_baseline: bool,
    /// Of the keys there are, by their ids.
    names: BTreeMap<String, String>,
}

/// What local answers drew, at the configured price.
fn electricity(sums: &Sums, energy: EnergyConfig) -> NanoUsd {
    let nano = u128::from(sums.energy_mj) * u128::from(energy.usd_per_kwh.get()) / MJ_PER_KWH;
    NanoUsd::new(u64::try_from(nano).unwrap_or(u64::MAX))
}

fn kwh(sums: &Sums) -> f64 {
    sums.energy_mj as f64 / MJ_PER_KWH as f64
}

/// Dollars with all their digits.
fn usd(amount: NanoUsd) -> String {
    amount.to_string().trim_start_matches('$').to_owned()
}

impl View {
    pub(crate) fn new(by: By, lines: Vec<Line>, config: &Config) -> Self {
        let has_baseline =
            config.ledger.baseline.is_some() || lines.iter().any(|line| line.sums.baseline_nanousd > NanoUsd::ZERO);
        let (energy, currency) = (config.energy, config.currency.clone());
        Self { by, lines, energy, currency, has_baseline, names: BTreeMap::new() }
    }

    /// Keys are known to people by their names.
    pub(crate) fn naming(mut self, keys: &Keys) -> Self {
        if self.by == By::Key {
            self.names = keys.all().iter().map(|key| (key.record.id.clone(), key.record.name.clone())).collect();
        }
        self
    }

    fn total(&self) -> Sums {
        let mut total = Sums::default();
        self.lines.iter().for_each(|line| total.add(&line.sums));
        total
    }

    pub(crate) fn json(&self) -> Value {
        let line = |line: &Line| {
            let mut object = self.sums_json(&line.sums);
            object[self.by.word()] = json!(line.name);
            if let Some(name) = self.names.get(&line.name) {
                object["key_name"] = json!(name);
            }
            object
        };
        json!({
            "by": self.by.word(),
            "lines": self.lines.iter().map(line).collect::<Vec<_>>(),
            "total": self.sums_json(&self.total()),
        })
    }

    fn sums_json(&self, sums: &Sums) -> Value {
        let mut object = json!({
            "attempts": sums.attempts,
            "prompt_tokens": sums.prompt_tokens,
            "completion_tokens": sums.completion_tokens,
            "cached_tokens": sums.cached_tokens,
            "cost_nanousd": sums.cost_nanousd,
            "cost_usd": sums.cost_nanousd.as_usd(),
            "baseline_usd": sums.baseline_nanousd.as_usd(),
            "saved_usd": self.has_baseline.then(|| sums.saved().as_usd()),
            "energy_kwh": kwh(sums),
            "electricity_usd": electricity(sums, self.energy).as_usd(),
        });
        if let Some(currency) = &self.currency {
            let cost = sums.cost_nanousd.as_usd();
            object["currency"] = json!({
                "code": currency.code,
                "billed": cost * currency.billed_per_usd,
                "at_market_rate": cost * currency.market_per_usd,
            });
        }
        object
    }

    pub(crate) fn csv(&self) -> String {
        let mut out = String::new();
        let mut head = vec![
            self.by.word(),
            "attempts",
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "cost_usd",
            "baseline_usd",
            "saved_usd",
            "energy_kwh",
            "electricity_usd",
        ];
        if self.currency.is_some() {
            head.extend(["currency", "billed", "at_market_rate"]);
        }
        if self.by == By::Key {
            head.push("key_name");
        }
        record(head.into_iter().map(Field::Text), &mut out);
        for Line { name, sums } in &self.lines {
            let mut fields = vec![
                Field::Text(name),
                sums.attempts.into(),
                sums.prompt_tokens.into(),
                sums.completion_tokens.into(),
                sums.cached_tokens.into(),
                Field::Number(usd(sums.cost_nanousd)),
                Field::Number(usd(sums.baseline_nanousd)),
                Field::Number(if self.has_baseline { usd(sums.saved()) } else { String::new() }),
                Field::Number(format!("{:.6}", kwh(sums))),
                Field::Number(usd(electricity(sums, self.energy))),
            ];
            if let Some(currency) = &self.currency {
                let cost = sums.cost_nanousd.as_usd();
                fields.push(Field::Text(&currency.code));
                fields.push(Field::Number(format!("{:.9}", cost * currency.billed_per_usd)));
                fields.push(Field::Number(format!("{:.9}", cost * currency.market_per_usd)));
            }
            if self.by == By::Key {
                fields.push(Field::Text(self.names.get(name).map_or("", String::as_str)));
            }
            record(fields, &mut out);
        }
        out
    }

    pub(crate) fn table(&self) -> String {
        let mut rows = vec![self.head()];
        rows.extend(self.lines.iter().map(|line| self.cells(&line.name, &line.sums)));
        if self.lines.len() != 1 {
            rows.push(self.cells("total", &self.total()));
        }
        aligned(&rows)
    }

    fn head(&self) -> Vec<String> {
        let words = [self.by.word(), "attempts", "in", "out", "cached", "cost", "saved"];
        let mut head: Vec<String> = words.map(str::to_owned).into();
        if let Some(currency) = &self.currency {
            head.extend([format!("billed {}", currency.code), format!("market {}", currency.code)]);
        }
        if self.has_energy() {
            head.extend(["kWh".to_owned(), "electricity".to_owned()]);
        }
        head
    }

    fn cells(&self, name: &str, sums: &Sums) -> Vec<String> {
        let name = match (name, self.by) {
            ("", By::Key) => "(no key)".to_owned(),
            (id, _) => self.names.get(id).map_or_else(|| id.to_owned(), |name| format!("{name} ({id})")),
        };
        let dollars = |amount: NanoUsd| format!("${:.6}", amount.as_usd());
        let counts = [sums.attempts, sums.prompt_tokens, sums.completion_tokens, sums.cached_tokens];
        let saved = if self.has_baseline { dollars(sums.saved()) } else { "-".to_owned() };
        let mut cells = vec![name];
        cells.extend(counts.map(|count| count.to_string()));
        cells.extend([dollars(sums.cost_nanousd), saved]);
        if let Some(currency) = &self.currency {
            let cost = sums.cost_nanousd.as_usd();
            let rates = [currency.billed_per_usd, currency.market_per_usd];
            cells.extend(rates.map(|rate| format!("{:.6}", cost * rate)));
        }
        if self.has_energy() {
            cells.extend([format!("{:.4}", kwh(sums)), dollars(electricity(sums, self.energy))]);
        }
        cells
    }

    fn has_energy(&self) -> bool {
        self.lines.iter().any(|line| line.sums.energy_mj > 0)
    }
}

/// Columns of equal width, the first one to the left.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut table = String::new();
    for row in rows {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match at {
                0 => write!(table, "{cell:width$}"),
                _ => write!(table, "  {cell:>width$}"),
            };
        }
        table.push('\n');
    }
    table
}

const ATTEMPT: [&str; 14] = [
    "number",
    "request",
    "at",
    "key",
    "target",
    "model",
    "outcome",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "estimated",
    "cost_usd",
    "reserved_usd",
    "energy_mj",
];

pub(crate) fn attempt_head() -> String {
    let mut out = String::new();
    record(ATTEMPT.map(Field::Text), &mut out);
    out
}

pub(crate) fn attempt_line(number: u64, row: &AttemptRow) -> String {
    let mut out = String::new();
    let (request, at) = (row.request.to_string(), at(row.at));
    let fields: [Field<'_>; 14] = [
        number.into(),
        Field::Text(&request),
        Field::Text(&at),
        Field::Text(row.key_text()),
        Field::Text(&row.target),
        Field::Text(&row.model),
        Field::Text(&row.outcome),
        row.usage.prompt_tokens.into(),
        row.usage.completion_tokens.into(),
        row.usage.cached_tokens.into(),
        u64::from(row.usage.estimated).into(),
        Field::Number(usd(row.cost)),
        Field::Number(usd(row.reserved)),
        row.energy_mj.into(),
    ];
    record(fields, &mut out);
    out
}

/// One page of attempts for people, the first one with its head.
pub(crate) fn attempt_table(page: &[(u64, AttemptRow)], is_first: bool) -> String {
    let head = ["at", "request", "target", "model", "outcome", "in", "out", "cost"].map(str::to_owned);
    let mut rows = vec![Vec::from(head)];
    for (_, row) in page {
        let about = if row.usage.estimated { "~" } else { "" };
        rows.push(vec![
            at(row.at),
            row.request.to_string(),
            row.target.clone(),
            row.model.clone(),
            row.outcome.to_string(),
            row.usage.prompt_tokens.to_string(),
            format!("{about}{}", row.usage.completion_tokens),
            format!("${:.6}", row.cost.as_usd()),
        ]);
    }
    let table = aligned(&rows);
    let below = table.split_once('\n').map_or("", |(_, below)| below);
    if is_first { table } else { below.to_owned() }
}

fn at(at: UnixMs) -> String {
    at.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_actors::domain::{RequestId, TokenUsage};

    fn view(currency: Option<CurrencyConfig>) -> View {
        let sums = Sums {
            attempts: 2,
            prompt_tokens: 60_000,
            completion_tokens: 40_000,
            cost_nanousd: NanoUsd::new(42_000_000),
            baseline_nanousd: NanoUsd::new(800_000_000),
            ..Sums::default()
        };
        let local = Sums { attempts: 1, energy_mj: 3_600_000_000, cost_nanousd: NanoUsd::ZERO, ..Sums::default() };
        let line = |name: &str, sums| Line { name: name.to_owned(), sums };
        let energy = EnergyConfig { local_watts: 0.0, usd_per_kwh: NanoUsd::new(250_000_000) };
        let lines = vec![line("=deepseek", sums), line("tiny", local)];
        View { by: By::Model, lines, energy, currency, has_baseline: true, names: BTreeMap::new() }
    }

    fn yuan() -> Option<CurrencyConfig> {
        Some(CurrencyConfig { code: "CNY".into(), billed_per_usd: 1.0, market_per_usd: 7.3 })
    }

    #[test]
    fn both_currencies_and_the_electricity_are_shown_beside_the_cost() {
        let table = view(yuan()).table();
        assert_eq!(
            table,
            "model      attempts     in    out  cached       cost      saved  billed CNY  market CNY     kWh  electricity\n\
             =deepseek         2  60000  40000       0  $0.042000  $0.758000    0.042000    0.306600  0.0000    $0.000000\n\
             tiny              1      0      0       0  $0.000000  $0.000000    0.000000    0.000000  1.0000    $0.250000\n\
             total             3  60000  40000       0  $0.042000  $0.758000    0.042000    0.306600  1.0000    $0.250000\n"
        );
    }

    #[test]
    fn csv_has_every_digit_and_no_formula() {
        assert_eq!(
            view(None).csv(),
            "model,attempts,prompt_tokens,completion_tokens,cached_tokens,cost_usd,baseline_usd,saved_usd,energy_kwh,\
             electricity_usd\r\n\
             \"'=deepseek\",2,60000,40000,0,0.042000000,0.800000000,0.758000000,0.000000,0.000000000\r\n\
             tiny,1,0,0,0,0.000000000,0.000000000,0.000000000,1.000000,0.250000000\r\n"
        );
    }

    #[test]
    fn without_a_baseline_nobody_knows_what_was_saved() {
        let view = View { has_baseline: false, ..view(None) };
        assert!(
            view.table().lines().skip(1).all(|line| line.split_whitespace().nth(6) == Some("-")),
            "{}",
            view.table()
        );
        assert!(view.csv().contains(",0.800000000,,"), "{}", view.csv());
        assert!(view.json()["total"]["saved_usd"].is_null());
    }

    #[test]
    fn keys_are_shown_by_name_and_id() {
        let names = BTreeMap::from([("tiny".to_owned(), "laptop".to_owned())]);
        let view = View { by: By::Key, names, ..view(None) };
        assert!(view.table().contains("laptop (tiny)"), "{}", view.table());
        assert_eq!(view.json()["lines"][1]["key_name"], "laptop");
        assert!(view.json()["lines"][0]["key_name"].is_null(), "a key that is not here any more has its id");
        let csv = view.csv();
        let last: Vec<&str> = csv.lines().map(|line| line.rsplit(',').next().unwrap()).collect();
        assert_eq!(last, ["key_name", "", "laptop"], "{csv}");
    }

    #[test]
    fn attempts_are_a_table_for_people() {
        let id = RequestId::random();
        let mut row = AttemptRow::new(id, None, UnixMs::new(0), "sim", "ok");
        row.usage = TokenUsage { prompt_tokens: 3, completion_tokens: 45, estimated: true, ..TokenUsage::default() };
        let table = attempt_table(&[(7, row.clone())], true);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("at ") && lines[1].ends_with("3  ~45  $0.000000"), "{table}");
        assert!(!table.contains(','), "no CSV unless it is asked for: {table}");
        assert_eq!(attempt_table(&[(7, row)], false).lines().count(), 1);
    }

    #[test]
    fn json_says_the_same() {
        let json = view(yuan()).json();
        assert_eq!(json["lines"][0]["model"], "=deepseek");
        assert_eq!(json["total"]["cost_nanousd"], 42_000_000);
        assert_eq!(json["total"]["currency"]["code"], "CNY");
        assert_eq!(json["lines"][1]["electricity_usd"], 0.25);
    }
}
