//! One connection to SQLite or PostgreSQL, with the few types that the ledger stores: whole numbers and text. The SQL is
//! the same for both; what differs between them is here.

use super::StoreError;
use crate::ledger::journal::OWNER_FILE;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, ColumnIndex, ConnectOptions, Connection, Database, Decode, Executor, Type,
    postgres::{PgConnectOptions, PgConnection, PgRow},
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};
use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use tokio::time::timeout;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one statement may take; a database that hangs is one that failed.
const STATEMENT: Duration = Duration::from_secs(60);
/// How long SQLite waits for a reader that keeps a lock.
const BUSY: Duration = Duration::from_secs(5);
/// SQLite's primary result codes for a file that is no database or a broken one.
const DAMAGED: [i32; 2] = [11, 26];
/// And for a disk that is full, or fails.
const NO_ROOM: [i32; 2] = [13, 10];

/// Where a database is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
}

pub(super) enum Db {
    Sqlite(Box<SqliteConnection>),
    Postgres(Box<PgConnection>),
}

pub(super) enum Arg {
    Int(i64),
    Text(String),
}

impl From<u64> for Arg {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A value of this row's type is missing or of another type: the database is not ours.
pub(super) type Cell<T> = Result<T, sqlx::Error>;

impl Row {
    pub(super) fn int(&self, column: usize) -> Cell<u64> {
        let number: i64 = match self {
            Self::Sqlite(row) => cell(row, column)?,
            Self::Postgres(row) => cell(row, column)?,
        };
        Ok(u64::try_from(number).unwrap_or(0))
    }

    pub(super) fn text(&self, column: usize) -> Cell<String> {
        match self {
            Self::Sqlite(row) => cell(row, column),
            Self::Postgres(row) => cell(row, column),
        }
    }
}

fn cell<'r, R, T>(row: &'r R, column: usize) -> Cell<T>
where
    R: sqlx::Row,
    usize: ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
    R::Database: Database<Row = R>,
{
    row.try_get(column)
}

impl Place {
    /// # Errors
    /// It is no address.
    pub(super) fn postgres(url: &SecretString) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url.expose_secret()).map_err(|_| StoreError::Unusable {
            place: "named by [ledger] url".to_owned(),
            message: "it is no address such as postgres://user:password@host:5432/database".to_owned(),
        })?;
        Ok(Self::Postgres(Box::new(options.application_name("spillway").disable_statement_logging())))
    }

    /// For messages: without user and password.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(options) => {
                let database = options.get_database().unwrap_or_default();
                format!("postgres://{}:{}/{database}", options.get_host(), options.get_port())
            }
        }
    }

    /// Whether there is not even a file: who reads makes none.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Sqlite(path) if !path.exists())
    }

    pub(super) async fn connect(&self, read_only: bool) -> Result<Db, StoreError> {
        let connected = async {
            match self {
                Self::Sqlite(path) => {
                    if !read_only {
                        make_private(path);
                    }
                    let options = sqlite(path, read_only);
                    SqliteConnection::connect_with(&options).await.map(|db| Db::Sqlite(Box::new(db)))
                }
                Self::Postgres(options) => {
                    PgConnection::connect_with(options).await.map(|db| Db::Postgres(Box::new(db)))
                }
            }
        };
        match timeout(CONNECT, connected).await {
            Ok(connected) => connected.map_err(|error| self.failed(&error)),
            Err(_) => {
                let message = format!("no connection within {} s", CONNECT.as_secs());
                Err(StoreError::Unusable { place: self.name(), message })
            }
        }
    }

    pub(super) fn failed(&self, error: &sqlx::Error) -> StoreError {
        let (place, message) = (self.name(), error.to_string());
        let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
        let damaged = matches!(self, Self::Sqlite(_)) && code.is_some_and(|code| DAMAGED.contains(&(code & 0xff)));
        let no_room = matches!(self, Self::Sqlite(_)) && code.is_some_and(|code| NO_ROOM.contains(&(code & 0xff)));
        match (damaged, no_room) {
            (true, _) => StoreError::Damaged { place, message },
            (_, true) => StoreError::NoRoom { place, message },
            _ => StoreError::Unusable { place, message },
        }
    }
}

/// Makes a database that is not there yet, so that only its owner may read it; SQLite gives the files beside it the same
/// rights. Why it cannot be made SQLite will say.
fn make_private(path: &Path) {
    drop(OpenOptions::new().write(true).create_new(true).mode(OWNER_FILE).open(path));
}

fn sqlite(path: &Path, read_only: bool) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY)
        .thread_name(|_| "ledger-sqlite".to_owned())
        .disable_statement_logging();
    if read_only {
        return options.read_only(true);
    }
    // FULL: a batch that was applied survives a power cut, because its journal is removed afterwards.
    options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
}

macro_rules! bound {
    ($sql:expr, $args:expr, kept: $kept:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($sql)).persistent($kept);
        for arg in $args {
            query = match arg {
                Arg::Int(number) => query.bind(number),
                Arg::Text(text) => query.bind(text),
            };
        }
        query
    }};
}

impl Db {
    /// Several statements, or one that takes no values.
    pub(super) async fn run(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        within(async {
            match self {
                Self::Sqlite(db) => db.execute(sqlx::raw_sql(sql)).await.map(|_| ()),
                Self::Postgres(db) => db.execute(sqlx::raw_sql(sql)).await.map(|_| ()),
            }
        })
        .await
    }

    /// Gives how many rows were changed. `sql` holds nothing that a user wrote: values are bound.
    pub(super) async fn execute(&mut self, sql: String, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
        self.execute_kept(sql, args, false).await
    }

    /// As [`execute`](Self::execute), for one of a few statements that come again and again: it stays prepared.
    pub(super) async fn execute_often(&mut self, sql: String, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
        self.execute_kept(sql, args, true).await
    }

    async fn execute_kept(&mut self, sql: String, args: Vec<Arg>, kept: bool) -> Result<u64, sqlx::Error> {
        within(async {
            Ok(match self {
                Self::Sqlite(db) => bound!(sql, args, kept: kept).execute(&mut **db).await?.rows_affected(),
                Self::Postgres(db) => bound!(sql, args, kept: kept).execute(&mut **db).await?.rows_affected(),
            })
        })
        .await
    }

    /// Whether values are called `$1`, `$2`, …. SQLite knows those too, but looks each of them up among all its names.
    pub(super) const fn names_values(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    pub(super) async fn query(&mut self, sql: String, args: Vec<Arg>) -> Result<Vec<Row>, sqlx::Error> {
        within(async {
            Ok(match self {
                Self::Sqlite(db) => {
                    bound!(sql, args, kept: false).fetch_all(&mut **db).await?.into_iter().map(Row::Sqlite).collect()
                }
                Self::Postgres(db) => {
                    bound!(sql, args, kept: false).fetch_all(&mut **db).await?.into_iter().map(Row::Postgres).collect()
                }
            })
        })
        .await
    }

    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        // SQLite: the write lock at once, so that nothing fails half way for want of it.
        let sql = match self {
            Self::Sqlite(_) => "BEGIN IMMEDIATE",
            Self::Postgres(_) => "BEGIN",
        };
        self.run(sql).await
    }

    pub(super) async fn close(self) {
        let closed = match self {
            Self::Sqlite(db) => timeout(CONNECT, db.close()).await,
            Self::Postgres(db) => timeout(CONNECT, db.close()).await,
        };
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "the ledger's database was not closed in good order");
        }
    }
}

async fn within<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let late = |_| sqlx::Error::Protocol(format!("no answer within {} s", STATEMENT.as_secs()));
    timeout(STATEMENT, statement).await.map_err(late)?
}
