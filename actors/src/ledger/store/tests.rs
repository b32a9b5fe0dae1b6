//! What every store must do, held against memory, SQLite and, where its binaries are installed, a PostgreSQL server of this
//! test's own.

use super::{MemoryStore, SqlStore, sql::Access, *};
use crate::{
    domain::{Day, NanoUsd},
    ledger::{
        budget::Spent,
        journal::{
            Record,
            tests::{TestFolder, request_row, row},
        },
    },
};
use std::time::Duration;

mod postgres;

fn today() -> Day {
    Day::parse("2026-11-26").unwrap()
}

fn attempt(seq: u64, number: u64, day: Day, key: &str, model: &str, cost: u64) -> Entry {
    let row = AttemptRow {
        key: (!key.is_empty()).then(|| KeyId::from(key)),
        at: day.start().plus(Duration::from_secs(number)),
        model: model.to_owned(),
        ..row(u128::from(number), cost)
    };
    Entry { seq, record: Record::Attempt { number, reservation: None, row } }
}

fn request(seq: u64, id: u128, day: Day) -> Entry {
    let row = RequestRow { at: day.start().plus(Duration::from_millis(id as u64)), ..request_row(id) };
    Entry { seq, record: Record::Request { row } }
}

fn ask(by: By) -> Question {
    Question { by, since: None, until: None }
}

/// The suite. The store is empty.
async fn conforms(store: &dyn Store) {
    let now = today().start().plus(Duration::from_secs(3600));
    let empty = store.opening(now).await.unwrap();
    assert_eq!((empty.applied, empty.next_number, &empty.sums, empty.all), (0, 0, &vec![], Spent::default()));
    rows_are_read_in_order(store).await;
    replayed_batches_change_nothing(store).await;
    sums_are_of_the_days_asked(store).await;
    the_opening_knows_what_was_spent(store, now).await;
    old_rows_go_in_bounded_steps_and_their_sums_stay(store).await;
}

async fn rows_are_read_in_order(store: &dyn Store) {
    let yesterday = Day::new(today().get() - 1);
    let (november, october) = (Day::parse("2026-11-01").unwrap(), Day::parse("2026-10-31").unwrap());
    let odd = "m, \"quoted\"; DROP TABLE x; -- 日🦀";
    let first = [
        attempt(1, 0, october, "", "a", 1),
        attempt(2, 1, november, "ann", "a", 20),
        request(3, 1, november),
        Entry { seq: 4, record: Record::Voided { id: 1 } },
    ];
    let second =
        [attempt(5, 2, yesterday, "ann", odd, 300), request(6, 2, yesterday), attempt(7, 3, today(), "bob", "b", 4000)];
    store.apply(&first).await.unwrap();
    store.apply(&second).await.unwrap();
    let numbers = |rows: &[(u64, AttemptRow)]| rows.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let all = store.attempts(0, 100).await.unwrap();
    assert_eq!(numbers(&all), [0, 1, 2, 3]);
    assert_eq!(numbers(&store.attempts(1, 2).await.unwrap()), [1, 2]);
    assert_eq!(store.attempts(4, 10).await.unwrap(), []);
    let Record::Attempt { row, .. } = &second[0].record else { panic!("an attempt") };
    assert_eq!(all[2].1, *row, "every field survives, whatever a name holds");
    let Record::Request { row } = &second[1].record else { panic!("a request") };
    assert_eq!(store.requests(1).await.unwrap(), std::slice::from_ref(row), "the newest first");
    assert_eq!(store.requests(10).await.unwrap().len(), 2);
}

async fn replayed_batches_change_nothing(store: &dyn Store) {
    let before = store.usage(ask(By::Model)).await.unwrap();
    let again = [attempt(5, 2, today(), "ann", "other", 9), attempt(7, 3, today(), "bob", "b", 4000)];
    store.apply(&again).await.unwrap();
    store.apply(&[]).await.unwrap();
    assert_eq!(store.usage(ask(By::Model)).await.unwrap(), before);
    assert_eq!(store.attempts(0, 100).await.unwrap().len(), 4);
}

async fn sums_are_of_the_days_asked(store: &dyn Store) {
    let lines = |lines: Vec<Line>| -> Vec<(String, u64, u64)> {
        lines.into_iter().map(|line| (line.name, line.sums.attempts, line.sums.cost_nanousd.get())).collect()
    };
    let by_model = lines(store.usage(ask(By::Model)).await.unwrap());
    assert_eq!(by_model[0], ("a".to_owned(), 2, 21));
    assert_eq!(by_model.len(), 3);
    let by_key = lines(store.usage(ask(By::Key)).await.unwrap());
    assert_eq!(by_key, [(String::new(), 1, 1), ("ann".to_owned(), 2, 320), ("bob".to_owned(), 1, 4000)]);
    let by_target = lines(store.usage(ask(By::Target)).await.unwrap());
    assert_eq!(by_target, [("sim".to_owned(), 4, 4321)]);
    let november = Question { since: Day::parse("2026-11-01"), until: Day::parse("2026-11-25"), ..ask(By::Day) };
    let by_day = lines(store.usage(november).await.unwrap());
    assert_eq!(by_day, [("2026-11-01".to_owned(), 1, 20), ("2026-11-25".to_owned(), 1, 300)]);
    let sums = store.usage(ask(By::Target)).await.unwrap()[0].sums;
    assert_eq!((sums.prompt_tokens, sums.completion_tokens, sums.cached_tokens), (40, 400, 12));
    assert_eq!((sums.baseline_nanousd, sums.energy_mj), (NanoUsd::new(28), 36));
}

async fn the_opening_knows_what_was_spent(store: &dyn Store, now: UnixMs) {
    let opening = store.opening(now).await.unwrap();
    assert_eq!((opening.applied, opening.next_number), (7, 4));
    let spent =
        |day, month, total| Spent { day: NanoUsd::new(day), month: NanoUsd::new(month), total: NanoUsd::new(total) };
    assert_eq!(opening.all, spent(4000, 4320, 4321));
    let mut keys = opening.keys;
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(keys, [(KeyId::from("ann"), spent(0, 320, 320)), (KeyId::from("bob"), spent(4000, 4000, 4000))]);
    assert_eq!(opening.sums.iter().map(|(_, sums)| sums.attempts).sum::<u64>(), 4);
    let next_month = store.opening(Day::parse("2026-12-01").unwrap().start()).await.unwrap();
    assert_eq!(next_month.all, spent(0, 0, 4321));
}

async fn old_rows_go_in_bounded_steps_and_their_sums_stay(store: &dyn Store) {
    let before = store.usage(ask(By::Day)).await.unwrap();
    let border = today().start();
    assert_eq!(store.prune(border, 1).await.unwrap(), 2, "one of each kind");
    assert_eq!(store.prune(border, 10).await.unwrap(), 3);
    assert_eq!(store.prune(border, 10).await.unwrap(), 0);
    assert_eq!(store.attempts(0, 100).await.unwrap().len(), 1);
    assert_eq!(store.usage(ask(By::Day)).await.unwrap(), before);
}

#[tokio::test]
async fn memory_conforms() {
    conforms(&MemoryStore::default()).await;
}

#[tokio::test]
async fn sqlite_conforms() {
    let folder = TestFolder::new();
    let store = SqlStore::sqlite(folder.0.join("ledger.db"), Access::Write).await.unwrap();
    conforms(&store).await;
    store.close().await.unwrap();
    // Opened again, by a command that only reads.
    let read = SqlStore::sqlite(folder.0.join("ledger.db"), Access::Read).await.unwrap();
    assert_eq!(read.attempts(0, 100).await.unwrap().len(), 1);
}

#[tokio::test]
async fn memory_keeps_the_newest_rows_only() {
    let store = MemoryStore::default();
    let rows = memory::ROWS as u64;
    for number in 0..rows + 3 {
        store.apply_now(&[attempt(number + 1, number, today(), "", "m", number)]);
    }
    let numbers = |rows: Vec<(u64, AttemptRow)>| rows.into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    assert_eq!(numbers(store.attempts(0, 2).await.unwrap()), [3, 4]);
    assert_eq!(numbers(store.attempts(rows + 1, 10).await.unwrap()), [rows + 1, rows + 2]);
    assert_eq!(store.usage(ask(By::Model)).await.unwrap()[0].sums.attempts, rows + 3, "sums have all of them");
}

#[tokio::test]
async fn f26_a_damaged_or_foreign_or_newer_file_stops_the_start_and_is_left_alone() {
    let folder = TestFolder::new();
    let good = folder.0.join("good.db");
    let store = SqlStore::sqlite(good.clone(), Access::Write).await.unwrap();
    for seq in 1..200 {
        store.apply(&[attempt(seq, seq, today(), "k", "m", 1)]).await.unwrap();
    }
    store.close().await.unwrap();
    let whole = std::fs::read(&good).unwrap();
    let refused = async |name: &str, bytes: &[u8]| {
        let path = folder.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = SqlStore::sqlite(path.clone(), Access::Write).await.expect_err(name);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name} is left as it was");
        assert!(error.to_string().contains(name), "{error}");
        error
    };
    let half = refused("half.db", &whole[..whole.len() / 2]).await;
    let text = refused("text.db", &b"this is no database at all, whatever its name says\n".repeat(100)).await;
    let mut scribbled = whole.clone();
    scribbled[4096..12288].fill(0x5a);
    let scribbled = refused("scribbled.db", &scribbled).await;
    for error in [half, text, scribbled] {
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("Restore it from a backup"), "{error}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_stops_the_start() {
    let folder = TestFolder::new();
    let path = folder.0.join("newer.db");
    let store = SqlStore::sqlite(path.clone(), Access::Write).await.unwrap();
    store.pretend_version(99).await;
    store.close().await.unwrap();
    for access in [Access::Write, Access::Read] {
        let error = SqlStore::sqlite(path.clone(), access).await.err().unwrap();
        assert!(matches!(error, StoreError::Newer { found: 99, known: 1, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_named() {
    let folder = TestFolder::new();
    std::fs::write(folder.0.join("file"), "").unwrap();
    let error = SqlStore::sqlite(folder.0.join("file/ledger.db"), Access::Write).await.err().unwrap();
    assert!(error.to_string().contains("file/ledger.db cannot be used"), "{error}");
}

#[tokio::test]
async fn who_reads_where_no_ledger_is_hears_so_and_makes_none() {
    let folder = TestFolder::new();
    let path = folder.0.join("ledger.db");
    let error = SqlStore::sqlite(path.clone(), Access::Read).await.err().unwrap();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("there is no ledger yet") && !error.to_string().contains("code"), "{error}");
    assert!(!path.exists());
}
