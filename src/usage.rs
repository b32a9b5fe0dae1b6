//! `spillway usage`: what was spent, read from the ledger's database, whether or not a gateway runs. Writes nothing.

pub(crate) mod csv;
pub(crate) mod view;

use crate::cli::{self, ConfigArgs, failed_as, say};
use clap::{Args, ValueEnum};
use spillway_actors::{
    config::{Config, LedgerPlace},
    domain::{Day, UnixMs},
    keys::Keys,
    ledger::store::{Access, By, Question, SqlStore, Store, StoreError},
};
use std::process::ExitCode;
use view::View;

/// Rows read at a time.
const PAGE: usize = 1000;

#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What one line stands for.
    #[arg(long, value_enum, default_value = "model")]
    by: Lines,
    /// First day, UTC, as YYYY-MM-DD.
    #[arg(long, value_parser = day)]
    since: Option<Day>,
    /// Last day, UTC, as YYYY-MM-DD.
    #[arg(long, value_parser = day)]
    until: Option<Day>,
    /// Print comma-separated values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Lines {
    Model,
    Target,
    Key,
    Day,
    /// Every attempt a line of its own.
    Attempt,
}

fn day(text: &str) -> Result<Day, String> {
    Day::parse(text).ok_or_else(|| "want a day as YYYY-MM-DD".to_owned())
}

pub(crate) async fn run(args: &UsageArgs) -> ExitCode {
    let config = match cli::load_to_look(&args.config) {
        Ok(config) => config,
        Err(error) => return failed_as(args.json, &error),
    };
    let store = match open(&config).await {
        Ok(Some(store)) => store,
        Ok(None) => {
            return failed_as(
                args.json,
                &"the ledger is in memory ([ledger] url): ask the running gateway, GET /admin/usage",
            );
        }
        Err(error) => return failed_as(args.json, &error),
    };
    let shown = match args.by {
        Lines::Attempt => attempts(args, &store).await,
        Lines::Model => sums(args, &config, &store, By::Model).await,
        Lines::Target => sums(args, &config, &store, By::Target).await,
        Lines::Key => sums(args, &config, &store, By::Key).await,
        Lines::Day => sums(args, &config, &store, By::Day).await,
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed_as(args.json, &error),
    }
}

/// `None`: there is nothing to open.
async fn open(config: &Config) -> Result<Option<SqlStore>, StoreError> {
    match &config.ledger.place {
        LedgerPlace::Memory => Ok(None),
        LedgerPlace::Sqlite(path) => SqlStore::sqlite(path.clone(), Access::Read).await.map(Some),
        LedgerPlace::Postgres(url) => SqlStore::postgres(url, Access::Read).await.map(Some),
    }
}

async fn sums(args: &UsageArgs, config: &Config, store: &SqlStore, by: By) -> Result<(), StoreError> {
    let lines = store.usage(Question { by, since: args.since, until: args.until }).await?;
    let keys = Keys::configured(&config.keys);
    if by == By::Key {
        // Without names the ids have to do.
        let _ = keys.renew().await;
    }
    let view = View::new(by, lines, config).naming(&keys);
    if args.json {
        say(&serde_json::to_string_pretty(&view.json()).unwrap_or_default());
    } else if args.csv {
        say(&view.csv().trim_end());
    } else {
        say(&view.table().trim_end());
    }
    Ok(())
}

/// Page by page, so that a long history needs no memory.
async fn attempts(args: &UsageArgs, store: &SqlStore) -> Result<(), StoreError> {
    let since = args.since.map_or(UnixMs::new(0), Day::start);
    let until = args.until.map_or(UnixMs::new(u64::MAX), |day| Day::new(day.get() + 1).start());
    if args.csv {
        say(&view::attempt_head().trim_end());
    }
    let (mut from, mut is_first) = (0, true);
    loop {
        let mut page = store.attempts(from, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = last + 1;
        page.retain(|(_, row)| row.at >= since && row.at < until);
        if !args.json && !args.csv {
            if !page.is_empty() {
                say(&view::attempt_table(&page, is_first).trim_end());
                is_first = false;
            }
            continue;
        }
        for (number, row) in &page {
            if args.json {
                say(&serde_json::to_string(row).unwrap_or_default());
            } else {
                say(&view::attempt_line(*number, row).trim_end());
            }
        }
    }
}
