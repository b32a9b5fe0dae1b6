//! Rows as the tables hold them: their columns in order, written and read.

use super::{Arg, Cell, Db, Row, Slice, Sums};
use crate::{
    domain::{KeyId, NanoUsd, RequestId, TokenUsage, UnixMs},
    ledger::row::{AttemptRow, RequestRow},
};
use std::fmt::Write as _;

/// Rows of one statement: few enough for the databases' bounds on values. Fewer are split into powers of two, so that a
/// handful of statements, prepared once, serves batches of any size.
const AT_ONCE: usize = 128;

/// What happens to a row whose key is there already.
#[derive(Debug, Clone, Copy)]
enum Again {
    /// It is the same row.
    Keep,
    /// The columns from this one on are added up.
    AddFrom(usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    /// The first so many columns are the key.
    key: usize,
    again: Again,
}

pub(super) const ATTEMPTS: Table = Table {
    name: "spillway_attempts",
    columns: &[
        "number",
        "request",
        "key_id",
        "at_ms",
        "target",
        "model",
        "outcome",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "estimated",
        "cost",
        "reserved",
        "baseline",
        "energy_mj",
    ],
    key: 1,
    again: Again::Keep,
};

pub(super) const REQUESTS: Table = Table {
    name: "spillway_requests",
    columns: &[
        "request",
        "key_id",
        "at_ms",
        "target",
        "model",
        "complexity",
        "outcome",
        "streamed",
        "attempts",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "estimated",
        "took_ms",
    ],
    key: 1,
    again: Again::Keep,
};

pub(super) const DAILY: Table = Table {
    name: "spillway_daily",
    columns: &[
        "day",
        "key_id",
        "target",
        "model",
        "attempts",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "cost",
        "baseline",
        "energy_mj",
    ],
    key: 4,
    again: Again::AddFrom(4),
};

pub(super) const SPENT: Table =
    Table { name: "spillway_spent", columns: &["key_id", "cost"], key: 1, again: Again::AddFrom(1) };

/// The sums of many rows of `DAILY`, in the order of [`Sums`].
pub(super) const SUMS: &str = "CAST(SUM(attempts) AS BIGINT), CAST(SUM(prompt_tokens) AS BIGINT), \
    CAST(SUM(completion_tokens) AS BIGINT), CAST(SUM(cached_tokens) AS BIGINT), CAST(SUM(cost) AS BIGINT), \
    CAST(SUM(baseline) AS BIGINT), CAST(SUM(energy_mj) AS BIGINT)";

impl Table {
    /// `SELECT` of all columns; `rest` is SQL of ours.
    pub(super) fn select(&self, rest: &str) -> String {
        format!("SELECT {} FROM {} {rest}", self.columns.join(", "), self.name)
    }

    pub(super) async fn insert(&self, db: &mut Db, rows: Vec<Vec<Arg>>) -> Result<(), sqlx::Error> {
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let at_once = 1 << rows.len().min(AT_ONCE).ilog2();
            let values = rows.by_ref().take(at_once).flatten().collect();
            db.execute_often(self.insert_sql(at_once, db.names_values()), values).await?;
        }
        Ok(())
    }

    /// `named`: values are called `$1`, `$2`, …, else each is a `?`.
    fn insert_sql(&self, rows: usize, named: bool) -> String {
        let mut sql = format!("INSERT INTO {} ({}) VALUES ", self.name, self.columns.join(", "));
        for value in 0..rows * self.columns.len() {
            sql += match (value, value % self.columns.len()) {
                (0, _) => "(",
                (_, 0) => "), (",
                _ => ", ",
            };
            if named {
                let _ = write!(sql, "${}", value + 1);
            } else {
                sql.push('?');
            }
        }
        sql.push(')');
        let key = self.columns[..self.key].join(", ");
        match self.again {
            Again::Keep => sql + &format!(" ON CONFLICT ({key}) DO NOTHING"),
            Again::AddFrom(first) => {
                let name = self.name;
                let added: Vec<String> = self.columns[first..]
                    .iter()
                    .map(|column| format!("{column} = {name}.{column} + excluded.{column}"))
                    .collect();
                sql + &format!(" ON CONFLICT ({key}) DO UPDATE SET {}", added.join(", "))
            }
        }
    }
}

pub(super) fn attempt_values(number: u64, row: &AttemptRow) -> Vec<Arg> {
    vec![
        number.into(),
        Arg::Text(row.request.to_string()),
        row.key_text().into(),
        row.at.get().into(),
        row.target.as_str().into(),
        row.model.as_str().into(),
        row.outcome.as_ref().into(),
        row.usage.prompt_tokens.into(),
        row.usage.completion_tokens.into(),
        row.usage.cached_tokens.into(),
        u64::from(row.usage.estimated).into(),
        row.cost.get().into(),
        row.reserved.get().into(),
        row.baseline.get().into(),
        row.energy_mj.into(),
    ]
}

pub(super) fn request_values(row: &RequestRow) -> Vec<Arg> {
    vec![
        Arg::Text(row.request.to_string()),
        row.key.as_ref().map_or("", KeyId::as_str).into(),
        row.at.get().into(),
        row.target.as_str().into(),
        row.model.as_str().into(),
        row.complexity.as_ref().into(),
        row.outcome.as_ref().into(),
        u64::from(row.stream).into(),
        u64::from(row.attempts).into(),
        row.usage.prompt_tokens.into(),
        row.usage.completion_tokens.into(),
        row.usage.cached_tokens.into(),
        u64::from(row.usage.estimated).into(),
        row.took_ms.into(),
    ]
}

pub(super) fn daily_values(slice: &Slice, sums: &Sums) -> Vec<Arg> {
    vec![
        u64::from(slice.day.get()).into(),
        slice.key.as_str().into(),
        slice.target.as_str().into(),
        slice.model.as_str().into(),
        sums.attempts.into(),
        sums.prompt_tokens.into(),
        sums.completion_tokens.into(),
        sums.cached_tokens.into(),
        sums.cost_nanousd.get().into(),
        sums.baseline_nanousd.get().into(),
        sums.energy_mj.into(),
    ]
}

pub(super) fn money(row: &Row, column: usize) -> Cell<NanoUsd> {
    row.int(column).map(NanoUsd::new)
}

fn request_id(row: &Row, column: usize) -> Cell<RequestId> {
    let text = row.text(column)?;
    RequestId::parse(&text).ok_or_else(|| sqlx::Error::Decode(format!("`{text}` is no request id").into()))
}

fn key(row: &Row, column: usize) -> Cell<Option<KeyId>> {
    let text = row.text(column)?;
    Ok((!text.is_empty()).then(|| KeyId::from(text.as_str())))
}

fn usage(row: &Row, column: usize) -> Cell<TokenUsage> {
    Ok(TokenUsage {
        prompt_tokens: row.int(column)?,
        completion_tokens: row.int(column + 1)?,
        cached_tokens: row.int(column + 2)?,
        estimated: row.int(column + 3)? != 0,
        ..TokenUsage::default()
    })
}

pub(super) fn attempt(row: &Row) -> Cell<(u64, AttemptRow)> {
    let attempt = AttemptRow {
        request: request_id(row, 1)?,
        key: key(row, 2)?,
        at: UnixMs::new(row.int(3)?),
        target: row.text(4)?,
        model: row.text(5)?,
        outcome: row.text(6)?.into(),
        usage: usage(row, 7)?,
        cost: money(row, 11)?,
        reserved: money(row, 12)?,
        baseline: money(row, 13)?,
        energy_mj: row.int(14)?,
    };
    Ok((row.int(0)?, attempt))
}

pub(super) fn request(row: &Row) -> Cell<RequestRow> {
    Ok(RequestRow {
        request: request_id(row, 0)?,
        key: key(row, 1)?,
        at: UnixMs::new(row.int(2)?),
        target: row.text(3)?,
        model: row.text(4)?,
        complexity: row.text(5)?.into(),
        outcome: row.text(6)?.into(),
        stream: row.int(7)? != 0,
        attempts: u32::try_from(row.int(8)?).unwrap_or(u32::MAX),
        usage: usage(row, 9)?,
        took_ms: row.int(13)?,
    })
}

pub(super) fn sums(row: &Row, column: usize) -> Cell<Sums> {
    Ok(Sums {
        attempts: row.int(column)?,
        prompt_tokens: row.int(column + 1)?,
        completion_tokens: row.int(column + 2)?,
        cached_tokens: row.int(column + 3)?,
        cost_nanousd: money(row, column + 4)?,
        baseline_nanousd: money(row, column + 5)?,
        energy_mj: row.int(column + 6)?,
    })
}
