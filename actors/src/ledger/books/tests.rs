//! Reservations and what becomes of them: settled, dropped, expired, interrupted by a death; on a good disk and a full one.

use super::*;
use crate::{
    config::{LedgerConfig, LedgerPlace},
    domain::RequestId,
    ledger::{
        OpenError,
        journal::{
            SystemDisk,
            tests::{SmallDisk, TestFolder, row},
        },
        store::{By, Question},
        unix_now,
    },
};
use std::{path::PathBuf, sync::atomic::AtomicI64};

fn priced(cost: u64) -> AttemptRow {
    AttemptRow { at: unix_now(), key: None, reserved: NanoUsd::ZERO, baseline: NanoUsd::ZERO, ..row(1, cost) }
}

fn soon() -> UnixMs {
    unix_now().plus(Duration::from_secs(60))
}

async fn reserve(ledger: &Ledger, cost: u64) -> Result<Reservation, Refused> {
    ledger.reserve(priced(cost), BudgetLimits::default(), soon()).await
}

fn used(completion_tokens: u64) -> TokenUsage {
    TokenUsage { prompt_tokens: 10, completion_tokens, ..TokenUsage::default() }
}

pub(in crate::ledger) fn config(folder: &TestFolder, budget: Option<u64>) -> LedgerConfig {
    LedgerConfig {
        place: LedgerPlace::Sqlite(folder.0.join("ledger.db")),
        journal_dir: Some(folder.0.join("ledger.journal")),
        max_journal_bytes: 1 << 30,
        retention: None,
        budget: BudgetLimits { total: budget.map(NanoUsd::new), ..BudgetLimits::default() },
        default_output_tokens: 4096,
        baseline: None,
    }
}

async fn opened(folder: &TestFolder) -> Ledger {
    Ledger::open(&config(folder, None), unix_now()).await.unwrap()
}

/// As `kill -9`: nothing is closed, the database does not get what the journal has.
fn killed(ledger: Ledger) {
    drop(ledger);
}

#[tokio::test]
async fn every_reservation_ends_settled_voided_or_at_what_was_reserved() {
    let folder = TestFolder::new();
    for ledger in [Ledger::default(), opened(&folder).await] {
        let (settled, voided) = (reserve(&ledger, 100).await.unwrap(), reserve(&ledger, 50).await.unwrap());
        let dropped = reserve(&ledger, 25).await.unwrap();
        assert_eq!(ledger.snapshot().reserved_nanousd, NanoUsd::new(175));
        settled.settle("ok", used(3), NanoUsd::new(40), NanoUsd::ZERO).written().await.unwrap();
        voided.void();
        drop(dropped);
        let snapshot = ledger.snapshot();
        assert_eq!((snapshot.reserved_nanousd, snapshot.open_reservations), (NanoUsd::ZERO, 0));
        assert_eq!((snapshot.cost_nanousd, snapshot.attempts), (NanoUsd::new(65), 2));
        assert_eq!(snapshot.by_model["sim/m"].completion_tokens, 103);
        let (rows, next) = ledger.attempts(0, 10).await.unwrap();
        let outcomes: Vec<(&str, u64, u64)> =
            rows.iter().map(|row| (row.outcome.as_ref(), row.cost.get(), row.reserved.get())).collect();
        assert_eq!((outcomes, next), (vec![("ok", 40, 100), ("abandoned", 25, 25)], 2));
        ledger.close().await;
    }
}

#[tokio::test]
async fn a_ledger_without_room_at_the_start_is_opened_once_there_is_some() {
    let folder = TestFolder::new();
    let disk = folder.0.join("tiny");
    std::fs::create_dir(&disk).unwrap();
    let mut mount = std::process::Command::new("mount");
    let mounted = mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        // This user may not mount: `disks.rs` says so aloud.
        return;
    }
    std::fs::write(disk.join("ballast"), vec![0; 2 << 20]).unwrap_err();
    let config = LedgerConfig {
        place: LedgerPlace::Sqlite(disk.join("ledger.db")),
        journal_dir: Some(disk.join("ledger.journal")),
        ..config(&folder, Some(1000))
    };
    let ledger = Ledger::open(&config, unix_now()).await.unwrap();
    assert!(!ledger.is_up() && ledger.snapshot().waits_because.is_some());
    assert!(matches!(reserve(&ledger, 100).await, Err(Refused::NotWritten)));
    // What costs nothing is served meanwhile, and is not written down.
    let free = reserve(&ledger, 0).await.unwrap();
    assert!(ledger.fill().await.is_err() && ledger.attempts(0, 10).await.is_err());
    ledger.set_limits(BudgetLimits { total: Some(NanoUsd::new(500)), ..BudgetLimits::default() });
    std::fs::remove_file(disk.join("ballast")).unwrap();
    ledger.fill().await.unwrap();
    assert!(ledger.is_up() && ledger.snapshot().waits_because.is_none());
    let paid = reserve(&ledger, 100).await.unwrap();
    free.settle("ok", used(3), NanoUsd::ZERO, NanoUsd::ZERO).written().await.unwrap();
    assert_eq!(ledger.snapshot().reserved_nanousd, NanoUsd::new(100), "ids are not given twice");
    paid.settle("ok", used(3), NanoUsd::new(40), NanoUsd::ZERO).written().await.unwrap();
    assert!(reserve(&ledger, 470).await.is_err(), "the limits of meanwhile hold");
    assert_eq!(ledger.attempts(0, 10).await.unwrap().0.len(), 1);
    ledger.close().await;
    drop(std::process::Command::new("umount").arg("-l").arg(&disk).status());
}

#[tokio::test]
async fn nobody_but_its_owner_reads_the_ledger() {
    let folder = TestFolder::new();
    let ledger = opened(&folder).await;
    let reservation = reserve(&ledger, 100).await.unwrap();
    reservation.settle("ok", used(3), NanoUsd::new(40), NanoUsd::ZERO).written().await.unwrap();
    let (mut looked_at, mut todo) = (0, vec![folder.0.join("ledger.journal")]);
    todo.extend(std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path()));
    while let Some(path) = todo.pop() {
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
        looked_at += 1;
        if path.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(looked_at >= 4, "a database, a folder, its lock and a segment");
    ledger.close().await;
}

#[tokio::test]
async fn a_reservation_whose_caller_leaves_before_it_is_written_is_void() {
    let ledger = Ledger::default();
    let (reservation, receipt) = ledger.set_aside(priced(100), BudgetLimits::default(), soon()).unwrap();
    drop((reservation, receipt));
    let snapshot = ledger.snapshot();
    assert_eq!(
        (snapshot.reserved_nanousd, snapshot.cost_nanousd, snapshot.attempts),
        (NanoUsd::ZERO, NanoUsd::ZERO, 0)
    );
}

#[tokio::test]
async fn nothing_stays_reserved_past_its_deadline_and_is_not_charged_twice() {
    let ledger = Ledger::default();
    let forgotten = reserve(&ledger, 70).await.unwrap();
    ledger.expire(unix_now().plus(Duration::from_secs(60) + GRACE - Duration::from_secs(2)));
    assert_eq!(ledger.snapshot().open_reservations, 1);
    ledger.expire(unix_now().plus(Duration::from_secs(61) + GRACE));
    let snapshot = ledger.snapshot();
    assert_eq!((snapshot.reserved_nanousd, snapshot.cost_nanousd), (NanoUsd::ZERO, NanoUsd::new(70)));
    forgotten.settle("ok", used(1), NanoUsd::new(9), NanoUsd::ZERO).written().await.unwrap();
    let snapshot = ledger.snapshot();
    assert_eq!((snapshot.cost_nanousd, snapshot.attempts), (NanoUsd::new(70), 1), "settled once");
}

#[tokio::test]
async fn f26_after_a_death_what_was_settled_stands_and_what_was_open_is_charged_in_full_once() {
    let folder = TestFolder::new();
    let first = opened(&folder).await;
    let (settled, open) = (reserve(&first, 100).await.unwrap(), reserve(&first, 30).await.unwrap());
    reserve(&first, 7).await.unwrap().void();
    settled.settle("ok", used(3), NanoUsd::new(40), NanoUsd::ZERO).written().await.unwrap();
    first.post(AttemptRow { cost: NanoUsd::ZERO, target: "local".into(), ..priced(0) });
    // The guard dies with its process: it says nothing.
    open.vanish();
    killed(first);
    for death in 0..3 {
        let ledger = opened(&folder).await;
        let snapshot = ledger.snapshot();
        assert_eq!((snapshot.reserved_nanousd, snapshot.open_reservations), (NanoUsd::ZERO, 0));
        assert_eq!((snapshot.cost_nanousd, snapshot.attempts), (NanoUsd::new(70), 3), "death {death}");
        let (rows, _) = ledger.attempts(0, 10).await.unwrap();
        let outcomes: Vec<&str> = rows.iter().map(|row| row.outcome.as_ref()).collect();
        assert_eq!(outcomes, ["ok", "ok", "interrupted"], "death {death}");
        if death == 1 {
            ledger.close().await;
        } else {
            killed(ledger);
        }
    }
}

#[tokio::test]
async fn budgets_survive_a_death_and_an_orderly_end() {
    let folder = TestFolder::new();
    let open = async || Ledger::open(&config(&folder, Some(1000)), unix_now()).await.unwrap();
    let left = |ledger: &Ledger| ledger.purchasing(None, unix_now()).bound.map(|bound| bound.left);
    let ledger = open().await;
    let paid = reserve(&ledger, 400).await.unwrap();
    paid.settle("ok", used(1), NanoUsd::new(300), NanoUsd::ZERO).written().await.unwrap();
    killed(ledger);
    let ledger = open().await;
    assert_eq!(left(&ledger), Some(NanoUsd::new(700)));
    let dying = reserve(&ledger, 500).await.unwrap();
    let refused = reserve(&ledger, 201).await.err();
    assert!(matches!(refused, Some(Refused::Budget(bound)) if bound.left == NanoUsd::new(200)), "{refused:?}");
    dying.vanish();
    killed(ledger);
    let ledger = open().await;
    assert_eq!(left(&ledger), Some(NanoUsd::new(200)));
    ledger.close().await;
    drop(ledger);
    let ledger = open().await;
    assert_eq!(left(&ledger), Some(NanoUsd::new(200)));
    let by_day = ledger.usage(Question { by: By::Day, since: None, until: None }).await.unwrap();
    assert_eq!(by_day.iter().map(|line| line.sums.cost_nanousd.get()).sum::<u64>(), 800);
}

#[tokio::test]
async fn an_orderly_end_leaves_an_empty_journal() {
    let folder = TestFolder::new();
    let ledger = opened(&folder).await;
    reserve(&ledger, 5).await.unwrap().void();
    ledger.post(priced(0));
    ledger.close().await;
    let left: Vec<PathBuf> =
        std::fs::read_dir(folder.0.join("ledger.journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_none()), "{left:?}");
}

#[tokio::test]
async fn two_gateways_cannot_open_one_ledger() {
    let folder = TestFolder::new();
    let first = opened(&folder).await;
    let second = Ledger::open(&config(&folder, None), unix_now()).await.err().unwrap();
    assert!(matches!(second, OpenError::Folder(_)), "{second}");
    assert!(second.to_string().contains("another gateway holds the ledger's journal"), "{second}");
    first.close().await;
}

#[tokio::test]
async fn a_journal_is_not_applied_to_another_ledgers_database() {
    let folder = TestFolder::new();
    let mut config = config(&folder, None);
    for name in ["one.db", "two.db"] {
        config.place = LedgerPlace::Sqlite(folder.0.join(name));
        let (own, journal) = (folder.0.join(format!("{name}.journal")), config.journal_dir.clone());
        config.journal_dir = Some(own);
        let ledger = Ledger::open(&config, unix_now()).await.unwrap();
        ledger.post(priced(1));
        ledger.fill().await.unwrap();
        ledger.post(priced(1));
        // It dies: its journal is not emptied.
        drop(ledger);
        config.journal_dir = journal;
    }
    config.place = LedgerPlace::Sqlite(folder.0.join("one.db"));
    config.journal_dir = Some(folder.0.join("two.db.journal"));
    let refused = Ledger::open(&config, unix_now()).await.err().unwrap();
    assert!(matches!(refused, OpenError::OtherLedger { .. }), "{refused}");
    // Nor when another journal has filled it since.
    config.place = LedgerPlace::Sqlite(folder.0.join("two.db"));
    config.journal_dir = Some(folder.0.join("new.journal"));
    let successor = Ledger::open(&config, unix_now()).await.unwrap();
    config.journal_dir = Some(folder.0.join("third.journal"));
    let beside = Ledger::open(&config, unix_now()).await.err().unwrap();
    assert!(matches!(beside, OpenError::Store(StoreError::Held { .. })), "{beside}");
    successor.close().await;
    drop(successor);
    config.journal_dir = Some(folder.0.join("two.db.journal"));
    let refused = Ledger::open(&config, unix_now()).await.err().unwrap();
    assert!(matches!(refused, OpenError::OtherLedger { .. }), "{refused}");
    // One that was left in good order holds nothing that could be missed.
    config.journal_dir = Some(folder.0.join("third.journal"));
    Ledger::open(&config, unix_now()).await.unwrap().close().await;
    config.journal_dir = Some(folder.0.join("new.journal"));
    Ledger::open(&config, unix_now()).await.unwrap().close().await;
    // A database that was moved aside and begun anew takes its journal's folder over.
    config.place = LedgerPlace::Sqlite(folder.0.join("three.db"));
    Ledger::open(&config, unix_now()).await.unwrap().close().await;
}

#[tokio::test]
async fn f26_with_a_full_disk_nothing_paid_starts_and_nothing_is_lost() {
    let folder = TestFolder::new();
    let disk = SmallDisk(Arc::new(AtomicI64::new(1 << 20)));
    let ledger = Ledger::open_on(&config(&folder, None), unix_now(), Box::new(disk.clone())).await.unwrap();
    let running = reserve(&ledger, 100).await.unwrap();
    disk.0.store(10, Ordering::SeqCst);
    assert_eq!(reserve(&ledger, 1).await.err(), Some(Refused::NotWritten), "the one that finds out");
    assert!(!ledger.purchasing(None, unix_now()).recordable);
    assert_eq!(reserve(&ledger, 1).await.err(), Some(Refused::NotWritten), "and all after it");
    assert!(reserve(&ledger, 0).await.is_ok(), "what is free needs no ledger");
    // Its answer is there: the client is told although this settlement is not written, because its reservation is.
    let receipt = running.settle("ok", used(1), NanoUsd::new(60), NanoUsd::ZERO);
    assert!(receipt.written().await.is_err());
    assert_eq!(ledger.snapshot().cost_nanousd, NanoUsd::new(60));
    disk.0.store(1 << 30, Ordering::SeqCst);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !ledger.is_up() {
        assert!(tokio::time::Instant::now() < deadline, "up again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reserve(&ledger, 5).await.unwrap().settle("ok", used(1), NanoUsd::new(5), NanoUsd::ZERO).written().await.unwrap();
    killed(ledger);
    let ledger = opened(&folder).await;
    assert_eq!(ledger.snapshot().cost_nanousd, NanoUsd::new(65), "as if nothing had happened");
}

#[tokio::test]
async fn f26_who_dies_with_a_full_disk_has_its_unwritten_settlement_charged_in_full() {
    let folder = TestFolder::new();
    let disk = SmallDisk(Arc::new(AtomicI64::new(1 << 20)));
    let ledger = Ledger::open_on(&config(&folder, None), unix_now(), Box::new(disk.clone())).await.unwrap();
    let running = reserve(&ledger, 100).await.unwrap();
    disk.0.store(3, Ordering::SeqCst);
    let receipt = running.settle("ok", used(1), NanoUsd::new(60), NanoUsd::ZERO);
    assert!(receipt.written().await.is_err());
    killed(ledger);
    let ledger = opened(&folder).await;
    let snapshot = ledger.snapshot();
    assert_eq!((snapshot.cost_nanousd, snapshot.attempts), (NanoUsd::new(100), 1), "never understated");
}

#[tokio::test]
async fn a_journal_that_is_too_large_takes_no_reservation() {
    let folder = TestFolder::new();
    let config = LedgerConfig { max_journal_bytes: 2000, ..config(&folder, None) };
    let ledger = Ledger::open_on(&config, unix_now(), Box::new(SystemDisk)).await.unwrap();
    let mut granted = 0;
    while let Ok(reservation) = reserve(&ledger, 1).await {
        reservation.void();
        granted += 1;
        assert!(granted < 100);
    }
    assert!(granted > 2);
}

#[tokio::test]
async fn large_segments_make_way_once_the_database_has_them() {
    let folder = TestFolder::new();
    let ledger = opened(&folder).await;
    let open = reserve(&ledger, 11).await.unwrap();
    let journal = ledger.inner.journal().expect("a journal");
    for _ in 0..1000 {
        ledger.post(priced(0));
    }
    {
        let books = ledger.inner.books.lock();
        journal.rotate(books.carried());
    }
    ledger.post(priced(0));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let segments = || std::fs::read_dir(folder.0.join("ledger.journal")).unwrap().count();
    // Segments, the lock and the name.
    while segments() > 3 {
        assert!(tokio::time::Instant::now() < deadline, "the old segment goes");
        ledger.fill().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    open.vanish();
    drop(ledger);
    let ledger = opened(&folder).await;
    assert_eq!((ledger.snapshot().attempts, ledger.snapshot().cost_nanousd), (1002, NanoUsd::new(11)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f27_of_a_thousand_at_once_exactly_fifty_are_granted() {
    let folder = TestFolder::new();
    let ledger = Ledger::open(&config(&folder, Some(5_000_000_000)), unix_now()).await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let ledger = ledger.clone();
        asking.spawn(async move { reserve(&ledger, 100_000_000).await.ok() });
    }
    let granted: Vec<Reservation> = asking.join_all().await.into_iter().flatten().collect();
    assert_eq!(granted.len(), 50);
    let budget = ledger.snapshot().budget["total"];
    assert_eq!(budget.reserved_nanousd, NanoUsd::new(5_000_000_000));
    for reservation in granted {
        drop(reservation.settle("ok", used(1), NanoUsd::new(100_000_000), NanoUsd::ZERO));
    }
    assert_eq!(ledger.purchasing(None, unix_now()).bound.map(|bound| bound.left), Some(NanoUsd::ZERO));
    ledger.close().await;
}

#[tokio::test]
async fn request_rows_reach_the_store() {
    let folder = TestFolder::new();
    for ledger in [Ledger::default(), opened(&folder).await] {
        for id in [1, 2] {
            let row = RequestRow { at: unix_now(), ..crate::ledger::journal::tests::request_row(id) };
            ledger.note_request(&row).written().await.unwrap();
        }
        let rows = ledger.requests(10).await.unwrap();
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().any(|row| row.request == RequestId::from_bits(2)));
        ledger.close().await;
    }
}
