//! `[ledger]`, `[energy]`, `[currency]`: where money is written down, what may be spent, and how it is shown.

use super::{
    Context, Names,
    money::{amount, amount_or},
};
use crate::{
    config::{
        CurrencyConfig, EnergyConfig, LedgerConfig, LedgerPlace,
        section::{Report, Section},
    },
    domain::{BudgetLimits, ModelName},
};
use secrecy::SecretString;
use std::{ffi::OsString, path::PathBuf, time::Duration};

const DAY: Duration = Duration::from_secs(86_400);
/// Ten years.
const MAX_RETENTION_DAYS: u32 = 3650;
/// Beside a database file.
const JOURNAL_SUFFIX: &str = ".journal";
/// Of a database that is no file.
const JOURNAL: &str = "spillway.journal";

pub(super) fn ledger(section: Section<'_>, context: &Context<'_>, names: &mut Names) -> Option<LedgerConfig> {
    let place = place(&section);
    let journal_dir = section.text("journal_dir");
    let max_journal_mb = section.integer("max_journal_mb", 32..=1 << 20);
    let retention_days = section.small("retention_days", 0..=MAX_RETENTION_DAYS);
    let day = amount_or(&section, "budget_usd_per_day", "unlimited");
    let month = amount_or(&section, "budget_usd_per_month", "unlimited");
    let default_output_tokens = section.small("default_output_tokens", 1..=1 << 24);
    let baseline = baseline(&section, context.report, names);
    section.finish();
    // What a simulated provider asks must not count as spent.
    let place = if context.sources.demo.is_some() { LedgerPlace::Memory } else { place? };
    Some(LedgerConfig {
        journal_dir: journal(&place, &journal_dir?.value),
        place,
        max_journal_bytes: max_journal_mb? << 20,
        retention: Some(retention_days?).filter(|days| *days > 0).map(|days| DAY * days),
        budget: BudgetLimits { day: day?, month: month?, total: None },
        default_output_tokens: default_output_tokens?,
        baseline: baseline?,
    })
}

/// A database address may hold a password: it is neither shown nor repeated.
fn place(section: &Section<'_>) -> Option<LedgerPlace> {
    const KEY: &str = "url";
    let url = section.text(KEY)?;
    let (scheme, rest) = url.value.split_once(':').unwrap_or((&url.value, ""));
    match scheme {
        "memory" => Some(LedgerPlace::Memory),
        "postgres" | "postgresql" if rest.starts_with("//") => {
            Some(LedgerPlace::Postgres(SecretString::from(url.value.as_str())))
        }
        "postgres" | "postgresql" => {
            let why = "must be an address such as postgres://user:password@host/database";
            section.refuse_unseen(KEY, &url.origin, why);
            None
        }
        "sqlite" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() || path.starts_with(':') || path.contains('?') {
                let why = "must name a file, such as sqlite:spillway.db, without parameters";
                section.refuse_unseen(KEY, &url.origin, why);
                return None;
            }
            Some(LedgerPlace::Sqlite(PathBuf::from(path)))
        }
        _ => {
            section.refuse_unseen(KEY, &url.origin, "must start with memory:, sqlite: or postgres:");
            None
        }
    }
}

fn journal(place: &LedgerPlace, named: &str) -> Option<PathBuf> {
    match place {
        LedgerPlace::Memory => None,
        _ if !named.is_empty() => Some(PathBuf::from(named)),
        LedgerPlace::Sqlite(path) => {
            let mut beside = OsString::from(path);
            beside.push(JOURNAL_SUFFIX);
            Some(PathBuf::from(beside))
        }
        LedgerPlace::Postgres(_) => Some(PathBuf::from(JOURNAL)),
    }
}

/// `Some(None)` = off.
fn baseline(section: &Section<'_>, report: &Report<'_>, names: &mut Names) -> Option<Option<ModelName>> {
    const KEY: &str = "baseline_model";
    let name = section.text(KEY)?;
    let model = names.model(&name.value);
    if name.value.is_empty() || model.is_some() {
        return Some(model);
    }
    if report.texts.is_users(&name.origin) {
        names.refuse_unknown(&section.path_of(KEY), &name, report);
        return None;
    }
    names.drop_built_in(&name.value);
    Some(None)
}

pub(super) fn energy(section: Section<'_>) -> Option<EnergyConfig> {
    let local_watts = section.decimal("local_watts", 0.0..=100_000.0);
    let usd_per_kwh = amount(&section, "electricity_usd_per_kwh");
    section.finish();
    Some(EnergyConfig { local_watts: f64::from(local_watts?), usd_per_kwh: usd_per_kwh? })
}

/// `Some(None)` = dollars only.
pub(super) fn currency(section: Section<'_>) -> Option<Option<CurrencyConfig>> {
    const RATE: std::ops::RangeInclusive<f32> = 0.000_001..=1_000_000.0;
    let code = section.text("code");
    let billed = section.decimal("billed_per_usd", RATE);
    let market = section.decimal("market_per_usd", RATE);
    let code = code.and_then(|code| {
        let good = code.value.len() <= 8 && code.value.chars().all(|letter| letter.is_ascii_alphanumeric());
        if !good {
            section.refuse("code", &code.origin, "must be a currency's code, such as CNY");
        }
        good.then_some(code.value)
    });
    section.finish();
    let (code, billed, market) = (code?, billed?, market?);
    let rates = CurrencyConfig { code, billed_per_usd: rate(billed), market_per_usd: rate(market) };
    Some((!rates.code.is_empty()).then_some(rates))
}

/// As it was written: 7.3, not the nearest number with fewer bits.
fn rate(written: f32) -> f64 {
    written.to_string().parse().unwrap_or(f64::from(written))
}
