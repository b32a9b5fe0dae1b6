//! The store in a database. One connection writes, and is thrown away with whatever it had begun when a batch fails or is
//! dropped; every reading has one of its own, so that none waits for the other.

mod rows;

use super::{
    Answer, Line, Opening, Question, Store, StoreError,
    db::{Arg, Cell, Db, Place, Row},
    new_name,
    schema::{CREATE_VERSION, NAME, READ_VERSION, RENAME, STEPS, VERSION, WRITE_VERSION},
    sums::{By, Slice, Sums, sum_up},
};
use crate::{
    domain::{Day, KeyId, UnixMs},
    ledger::{
        budget::Spent,
        journal::{Entry, Record},
        row::{AttemptRow, RequestRow},
    },
    lock::try_hold,
};
use futures_util::future::FutureExt;
use secrecy::SecretString;
use std::{collections::BTreeMap, fs::File, io, path::PathBuf, time::Duration};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

/// PostgreSQL's advisory lock that says: a gateway writes here.
const WRITER_LOCK: &str = "6017201026147083761";
/// How long the lock of a gateway that has just gone may still be there.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const FILE_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_LOOK: Duration = Duration::from_millis(100);
/// A SQLite file up to this size is checked as a whole when it is opened.
const CHECKED_BYTES: u64 = 32 << 20;

/// What for it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By the one gateway that fills it. Makes and updates the tables.
    Write,
    /// By a command that only looks.
    Read,
}

#[derive(Debug)]
pub struct SqlStore {
    place: Place,
    /// `None` between a failure and the next batch.
    writer: Mutex<Option<Db>>,
    /// Of a file that is written: its lock.
    held: Mutex<Option<File>>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Db")
    }
}

impl SqlStore {
    /// # Errors
    /// It cannot be reached or is damaged, held by another gateway or made by a newer one.
    pub async fn sqlite(path: PathBuf, access: Access) -> Result<Self, StoreError> {
        Self::open(Place::Sqlite(path), access).await
    }

    /// # Errors
    /// As [`sqlite`](Self::sqlite).
    pub async fn postgres(url: &SecretString, access: Access) -> Result<Self, StoreError> {
        Self::open(Place::postgres(url)?, access).await
    }

    async fn open(place: Place, access: Access) -> Result<Self, StoreError> {
        let store = Self { place, writer: Mutex::new(None), held: Mutex::new(None) };
        match access {
            Access::Write => {
                *store.held.lock().await = store.hold_file().await?;
                let mut db = store.connect_writer().await?;
                store.check_whole(&mut db).await?;
                store.migrate(&mut db).await?;
                *store.writer.lock().await = Some(db);
            }
            Access::Read => {
                if store.place.is_missing() {
                    return Err(StoreError::Missing { place: store.place.name() });
                }
                let mut db = store.place.connect(true).await?;
                let version = db.query(READ_VERSION.into(), Vec::new()).await.map_err(|error| store.failed(&error))?;
                store.knows(first_int(&version).map_err(|error| store.failed(&error))?)?;
                db.close().await;
            }
        }
        Ok(store)
    }

    fn failed(&self, error: &sqlx::Error) -> StoreError {
        self.place.failed(error)
    }

    fn knows(&self, found: u64) -> Result<(), StoreError> {
        let found = i64::try_from(found).unwrap_or(i64::MAX);
        if found > VERSION {
            return Err(StoreError::Newer { place: self.place.name(), found, known: VERSION });
        }
        Ok(())
    }

    /// A database in a file is held by a lock beside it, since another gateway's journal may be in any folder.
    async fn hold_file(&self) -> Result<Option<File>, StoreError> {
        let Place::Sqlite(path) = &self.place else { return Ok(None) };
        let unusable = |error: io::Error| StoreError::Unusable { place: self.place.name(), message: error.to_string() };
        let lock = path.with_added_extension("lock");
        let patience = Instant::now() + FILE_PATIENCE;
        loop {
            match try_hold(&lock).map_err(unusable)? {
                Some(held) => return Ok(Some(held)),
                None if Instant::now() < patience => sleep(LOCK_LOOK).await,
                None => return Err(StoreError::Held { place: self.place.name() }),
            }
        }
    }

    /// The connection of the one gateway that writes. A server has a lock of its own for it.
    async fn connect_writer(&self) -> Result<Db, StoreError> {
        let mut db = self.place.connect(false).await?;
        if matches!(self.place, Place::Sqlite(_)) {
            return Ok(db);
        }
        let asked = format!("SELECT CAST(CASE WHEN pg_try_advisory_lock({WRITER_LOCK}) THEN 1 ELSE 0 END AS BIGINT)");
        let patience = Instant::now() + LOCK_PATIENCE;
        loop {
            let rows = db.query(asked.clone(), Vec::new()).await.map_err(|error| self.failed(&error))?;
            if first_int(&rows).map_err(|error| self.failed(&error))? == 1 {
                return Ok(db);
            }
            if Instant::now() >= patience {
                return Err(StoreError::Held { place: self.place.name() });
            }
            sleep(LOCK_LOOK).await;
        }
    }

    async fn check_whole(&self, db: &mut Db) -> Result<(), StoreError> {
        let Place::Sqlite(path) = &self.place else { return Ok(()) };
        if std::fs::metadata(path).is_ok_and(|meta| meta.len() > CHECKED_BYTES) {
            return Ok(());
        }
        let rows = db.query("PRAGMA quick_check(1)".into(), Vec::new()).await.map_err(|error| self.failed(&error))?;
        let told = rows.first().map_or(Ok("ok".to_owned()), |row| row.text(0)).map_err(|error| self.failed(&error))?;
        if told == "ok" { Ok(()) } else { Err(StoreError::Damaged { place: self.place.name(), message: told }) }
    }

    async fn migrate(&self, db: &mut Db) -> Result<(), StoreError> {
        let found = self.version(db).await.map_err(|error| self.failed(&error))?;
        self.knows(found)?;
        self.step_up(db, found).await.map_err(|error| self.failed(&error))
    }

    async fn version(&self, db: &mut Db) -> Result<u64, sqlx::Error> {
        db.run(CREATE_VERSION).await?;
        first_int(&db.query(READ_VERSION.into(), Vec::new()).await?)
    }

    /// Each step with its version in one transaction.
    async fn step_up(&self, db: &mut Db, found: u64) -> Result<(), sqlx::Error> {
        for (version, step) in (1_u64..).zip(STEPS) {
            if version <= found {
                continue;
            }
            db.begin().await?;
            for statement in step {
                db.run(statement).await?;
            }
            db.execute(WRITE_VERSION.into(), vec![Arg::from(version)]).await?;
            db.execute(NAME.into(), vec![Arg::Text(new_name())]).await?;
            db.run("COMMIT").await?;
        }
        Ok(())
    }

    /// Runs `work` in a transaction of the writer. Whatever goes wrong, the connection goes with it.
    async fn in_transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut Db) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut db = match writer.take() {
            Some(db) => db,
            None => self.connect_writer().await?,
        };
        let done = async {
            db.begin().await?;
            let done = work(&mut db).await?;
            db.run("COMMIT").await?;
            Ok(done)
        };
        let done = done.await.map_err(|error| self.failed(&error))?;
        *writer = Some(db);
        Ok(done)
    }

    async fn read<T>(&self, work: impl AsyncFnOnce(&mut Db) -> Result<T, sqlx::Error>) -> Result<T, StoreError> {
        let mut db = self.place.connect(true).await?;
        let read = work(&mut db).await.map_err(|error| self.failed(&error));
        db.close().await;
        read
    }
}

#[cfg(test)]
impl SqlStore {
    pub(super) async fn pretend_version(&self, version: u64) {
        let mut writer = self.writer.lock().await;
        let db = writer.as_mut().expect("open");
        db.execute(WRITE_VERSION.into(), vec![Arg::from(version)]).await.expect("written");
    }
}

fn first_int(rows: &[Row]) -> Cell<u64> {
    rows.first().map_or(Ok(0), |row| row.int(0))
}

async fn apply(db: &mut Db, entries: &[Entry]) -> Result<(), sqlx::Error> {
    let applied = first_int(&db.query("SELECT applied FROM spillway_position WHERE id = 1".into(), Vec::new()).await?)?;
    let fresh = || entries.iter().filter(|entry| entry.seq > applied);
    let Some(last) = fresh().next_back() else { return Ok(()) };
    let attempts = fresh().filter_map(|entry| match &entry.record {
        Record::Attempt { number, row, .. } => Some(rows::attempt_values(*number, row)),
        _ => None,
    });
    rows::ATTEMPTS.insert(db, attempts.collect()).await?;
    let requests = fresh().filter_map(|entry| match &entry.record {
        Record::Request { row } => Some(rows::request_values(row)),
        _ => None,
    });
    rows::REQUESTS.insert(db, requests.collect()).await?;
    let slices = sum_up(fresh());
    rows::DAILY.insert(db, slices.iter().map(|(slice, sums)| rows::daily_values(slice, sums)).collect()).await?;
    let mut spent: BTreeMap<&str, u64> = BTreeMap::new();
    for (slice, sums) in &slices {
        *spent.entry(&slice.key).or_default() += sums.cost_nanousd.get();
    }
    let spent = spent.into_iter().filter(|(_, cost)| *cost > 0);
    rows::SPENT.insert(db, spent.map(|(key, cost)| vec![key.into(), cost.into()]).collect()).await?;
    db.execute("UPDATE spillway_position SET applied = $1 WHERE id = 1".into(), vec![last.seq.into()]).await?;
    Ok(())
}

async fn opening(db: &mut Db, now: UnixMs) -> Result<Opening, sqlx::Error> {
    let position = db.query("SELECT applied, ledger FROM spillway_position WHERE id = 1".into(), Vec::new()).await?;
    let (applied, ledger) = match position.first() {
        Some(row) => (row.int(0)?, row.text(1)?),
        None => return Err(sqlx::Error::RowNotFound),
    };
    let number =
        first_int(&db.query("SELECT COALESCE(MAX(number) + 1, 0) FROM spillway_attempts".into(), Vec::new()).await?)?;
    let mut opening = Opening { applied, ledger, next_number: number, ..Opening::default() };
    let sums = db
        .query(format!("SELECT target, model, {} FROM spillway_daily GROUP BY target, model", rows::SUMS), Vec::new());
    for row in sums.await? {
        opening.sums.push(((row.text(0)?, row.text(1)?), rows::sums(&row, 2)?));
    }
    let today = now.day();
    let mut keys: BTreeMap<String, Spent> = BTreeMap::new();
    for row in db.query("SELECT key_id, cost FROM spillway_spent".into(), Vec::new()).await? {
        keys.entry(row.text(0)?).or_default().total = rows::money(&row, 1)?;
    }
    for (since, is_day) in [(today.first_of_month(), false), (today, true)] {
        let sql = "SELECT key_id, CAST(SUM(cost) AS BIGINT) FROM spillway_daily WHERE day >= $1 GROUP BY key_id";
        for row in db.query(sql.into(), vec![u64::from(since.get()).into()]).await? {
            let spent = keys.entry(row.text(0)?).or_default();
            *(if is_day { &mut spent.day } else { &mut spent.month }) = rows::money(&row, 1)?;
        }
    }
    for (key, spent) in keys {
        let all = &mut opening.all;
        (all.day, all.month, all.total) = (all.day + spent.day, all.month + spent.month, all.total + spent.total);
        if !key.is_empty() {
            opening.keys.push((KeyId::from(key.as_str()), spent));
        }
    }
    Ok(opening)
}

async fn usage(db: &mut Db, question: Question) -> Result<Vec<Line>, sqlx::Error> {
    let column = match question.by {
        By::Model => "model",
        By::Target => "target",
        By::Key => "key_id",
        By::Day => "day",
    };
    let sql = format!(
        "SELECT {column}, {} FROM spillway_daily WHERE day >= $1 AND day <= $2 GROUP BY {column} ORDER BY {column}",
        rows::SUMS
    );
    let bounds = [question.since.unwrap_or(Day::new(0)), question.until.unwrap_or(Day::new(u32::MAX))];
    let args = bounds.map(|day| Arg::from(u64::from(day.get()))).into();
    let mut lines = Vec::new();
    for row in db.query(sql, args).await? {
        let name = match question.by {
            By::Day => Day::new(u32::try_from(row.int(0)?).unwrap_or(u32::MAX)).to_string(),
            _ => row.text(0)?,
        };
        lines.push(Line { name, sums: rows::sums(&row, 1)? });
    }
    // Databases sort text by rules of their own.
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(lines)
}

async fn prune(db: &mut Db, before: UnixMs, limit: usize) -> Result<u64, sqlx::Error> {
    let mut pruned = 0;
    for (table, id) in [("spillway_attempts", "number"), ("spillway_requests", "request")] {
        let sql = format!(
            "DELETE FROM {table} WHERE {id} IN (SELECT {id} FROM {table} WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)"
        );
        pruned += db.execute(sql, vec![before.get().into(), (limit as u64).into()]).await?;
    }
    Ok(pruned)
}

impl Store for SqlStore {
    fn opening(&self, now: UnixMs) -> Answer<'_, Opening> {
        self.read(async move |db: &mut Db| opening(db, now).await).boxed()
    }

    fn rename<'a>(&'a self, ledger: &'a str) -> Answer<'a, ()> {
        self.in_transaction(async move |db: &mut Db| {
            db.execute(RENAME.into(), vec![ledger.into()]).await?;
            Ok(())
        })
        .boxed()
    }

    fn apply<'a>(&'a self, entries: &'a [Entry]) -> Answer<'a, ()> {
        self.in_transaction(async move |db: &mut Db| apply(db, entries).await).boxed()
    }

    fn attempts(&self, from: u64, limit: usize) -> Answer<'_, Vec<(u64, AttemptRow)>> {
        let sql = rows::ATTEMPTS.select("WHERE number >= $1 ORDER BY number LIMIT $2");
        self.read(async move |db: &mut Db| {
            let found = db.query(sql, vec![from.into(), (limit as u64).into()]).await?;
            found.iter().map(rows::attempt).collect()
        })
        .boxed()
    }

    fn requests(&self, limit: usize) -> Answer<'_, Vec<RequestRow>> {
        let sql = rows::REQUESTS.select("ORDER BY at_ms DESC LIMIT $1");
        self.read(async move |db: &mut Db| {
            let found = db.query(sql, vec![(limit as u64).into()]).await?;
            found.iter().map(rows::request).collect()
        })
        .boxed()
    }

    fn usage(&self, question: Question) -> Answer<'_, Vec<Line>> {
        self.read(async move |db: &mut Db| usage(db, question).await).boxed()
    }

    fn prune(&self, before: UnixMs, limit: usize) -> Answer<'_, u64> {
        self.in_transaction(async move |db: &mut Db| prune(db, before, limit).await).boxed()
    }

    fn close(&self) -> Answer<'_, ()> {
        async move {
            if let Some(db) = self.writer.lock().await.take() {
                db.close().await;
            }
            drop(self.held.lock().await.take());
            Ok(())
        }
        .boxed()
    }
}
