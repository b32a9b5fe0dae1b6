//! The tables, step by step: each step brings a database of the version before it up to its own. Written in the SQL that
//! SQLite and PostgreSQL share. A step that was released is never changed.

/// Step n makes version n of version n − 1.
pub(super) const STEPS: [&[&str]; 1] = [&[
    // Records of the journal up to this sequence number are in here; one row.
    // `ledger` names this ledger, so that no other one's journal is taken for its own.
    "CREATE TABLE spillway_position (id BIGINT PRIMARY KEY, applied BIGINT NOT NULL, ledger TEXT NOT NULL)",
    "INSERT INTO spillway_position (id, applied, ledger) VALUES (1, 0, '')",
    // Money in nano-dollars, energy in thousandths of a joule, times in milliseconds since 1970; key_id '' = no key.
    "CREATE TABLE spillway_attempts (
        number BIGINT PRIMARY KEY, request TEXT NOT NULL, key_id TEXT NOT NULL, at_ms BIGINT NOT NULL,
        target TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL,
        prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL,
        estimated BIGINT NOT NULL, cost BIGINT NOT NULL, reserved BIGINT NOT NULL, baseline BIGINT NOT NULL,
        energy_mj BIGINT NOT NULL)",
    "CREATE INDEX spillway_attempts_at ON spillway_attempts (at_ms)",
    "CREATE INDEX spillway_attempts_request ON spillway_attempts (request)",
    // What a request cost is the sum of its attempts.
    "CREATE TABLE spillway_requests (
        request TEXT PRIMARY KEY, key_id TEXT NOT NULL, at_ms BIGINT NOT NULL, target TEXT NOT NULL,
        model TEXT NOT NULL, complexity TEXT NOT NULL, outcome TEXT NOT NULL, streamed BIGINT NOT NULL,
        attempts BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,
        cached_tokens BIGINT NOT NULL, estimated BIGINT NOT NULL, took_ms BIGINT NOT NULL)",
    "CREATE INDEX spillway_requests_at ON spillway_requests (at_ms)",
    // Sums that outlive the rows; day = days since 1970.
    "CREATE TABLE spillway_daily (
        day BIGINT NOT NULL, key_id TEXT NOT NULL, target TEXT NOT NULL, model TEXT NOT NULL,
        attempts BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,
        cached_tokens BIGINT NOT NULL, cost BIGINT NOT NULL, baseline BIGINT NOT NULL, energy_mj BIGINT NOT NULL,
        PRIMARY KEY (day, key_id, target, model))",
    // What each key has ever spent, so that no start reads its whole history.
    "CREATE TABLE spillway_spent (key_id TEXT PRIMARY KEY, cost BIGINT NOT NULL)",
]];

pub(super) const VERSION: i64 = STEPS.len() as i64;

pub(super) const CREATE_VERSION: &str = "CREATE TABLE IF NOT EXISTS spillway_schema (version BIGINT NOT NULL)";
pub(super) const READ_VERSION: &str = "SELECT COALESCE(MAX(version), 0) FROM spillway_schema";
pub(super) const WRITE_VERSION: &str = "INSERT INTO spillway_schema (version) VALUES ($1)";
pub(super) const NAME: &str = "UPDATE spillway_position SET ledger = $1 WHERE ledger = ''";
pub(super) const RENAME: &str = "UPDATE spillway_position SET ledger = $1 WHERE id = 1";
