//! Writing, rotating and reading again; and a disk that fails: full at any byte, for a while or until the end.

use super::*;
use crate::{
    domain::UnixMs,
    ledger::journal::{
        Entry, Reader, Record,
        record::tests::{request_row, row},
        replay,
    },
};
use std::sync::atomic::AtomicI64;

/// A folder of a test, which goes with its value.
pub(in crate::ledger) struct TestFolder(pub(in crate::ledger) PathBuf);

impl TestFolder {
    pub(in crate::ledger) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("spillway-ledger-{:032x}", rand::random::<u128>()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A disk with room for so many bytes more; a write beyond that leaves its beginning and fails.
#[derive(Clone, Default)]
pub(in crate::ledger) struct SmallDisk(pub(in crate::ledger) Arc<AtomicI64>);

impl Disk for SmallDisk {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let room = self.0.load(Ordering::SeqCst).max(0);
        let fits = usize::try_from(room).unwrap().min(bytes.len());
        file.write_all_at(&bytes[..fits], at)?;
        if fits < bytes.len() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.0.fetch_sub(i64::try_from(bytes.len()).unwrap(), Ordering::SeqCst);
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) < 0 {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        } else {
            file.sync_data()
        }
    }
}

fn journal(folder: &Path, disk: impl Disk) -> Journal {
    let folder = Folder::hold(folder).unwrap();
    let replay = replay(&folder, |_| {}).unwrap();
    let begin = Begin { segment: replay.next_segment, seq: replay.next_seq, bytes: replay.bytes, max_bytes: u64::MAX };
    Journal::start(folder, begin, Box::new(disk)).unwrap()
}

fn entries(folder: &Path) -> Vec<Entry> {
    let (mut found, folder) = (Vec::new(), Folder::hold(folder).unwrap());
    replay(&folder, |entry| found.push(entry.clone())).unwrap();
    found
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn what_was_waited_for_is_read_again_in_order() {
    let folder = TestFolder::new();
    let journal = journal(&folder.0, SystemDisk);
    for id in 1..=50_u64 {
        let row = row(u128::from(id), id);
        let receipt = journal.push(RecordRef::Reserved { id, deadline: UnixMs::new(9), row: &row });
        if id % 10 == 0 {
            receipt.written().await.unwrap();
            // Another reader, as after a kill: what was waited for is in the file.
            let bytes = std::fs::read(file(&folder.0, 1)).unwrap();
            assert!(frame::scan(&bytes, SEGMENT_HEAD).entries.len() as u64 >= id);
        }
    }
    drop(journal);
    let seqs: Vec<u64> = entries(&folder.0).iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (1..=50).collect::<Vec<_>>());
}

#[test]
fn whatever_many_write_at_once_is_there_in_its_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 400;
    let folder = TestFolder::new();
    let journal = Arc::new(journal(&folder.0, SystemDisk));
    let writers = (0..THREADS).map(|nth| {
        let journal = Arc::clone(&journal);
        thread::spawn(move || {
            for id in 0..EACH {
                let receipt = journal.push(RecordRef::Voided { id: nth * EACH + id });
                // Some are waited for, others only dropped.
                if id % 3 == 0 {
                    futures_util::FutureExt::now_or_never(receipt.written());
                }
                if id % 100 == 99 {
                    journal.rotate(std::iter::empty());
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.join().unwrap();
    }
    drop(journal);
    let found = entries(&folder.0);
    assert!(found.iter().map(|entry| entry.seq).eq(1..=THREADS * EACH));
    for nth in 0..THREADS {
        let own = found.iter().filter_map(|entry| match entry.record {
            Record::Voided { id } if id / EACH == nth => Some(id % EACH),
            _ => None,
        });
        assert!(own.eq(0..EACH), "each writer's in the order of its calls");
    }
}

/// A disk whose writes take as long as a disk that turns may take, while it is told so.
struct SlowDisk(Arc<AtomicBool>);

impl Disk for SlowDisk {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if at > 0 && self.0.load(Ordering::SeqCst) {
            thread::sleep(SLOW * 2);
        }
        file.write_all_at(bytes, at)
    }
}

#[tokio::test]
async fn a_slow_disk_is_left_to_the_thread_for_a_while() {
    let folder = TestFolder::new();
    let slow = Arc::new(AtomicBool::new(true));
    let journal = journal(&folder.0, SlowDisk(Arc::clone(&slow)));
    assert!(!journal.shared.is_slow());
    let mut pushed = 0;
    // The thread may have been at it just then.
    while !journal.shared.is_slow() && pushed < 100 {
        pushed += 1;
        journal.push(RecordRef::Voided { id: pushed }).written().await.unwrap();
    }
    assert!(journal.shared.is_slow());
    slow.store(false, Ordering::SeqCst);
    let mut receipt = Box::pin(journal.push(RecordRef::Voided { id: pushed + 1 }).written());
    if futures_util::poll!(&mut receipt).is_pending() {
        receipt.await.unwrap();
    }
    drop(journal);
    assert_eq!(entries(&folder.0).len() as u64, pushed + 1);
}

#[tokio::test]
async fn a_new_segment_carries_what_is_open_and_the_old_one_may_go() {
    let folder = TestFolder::new();
    let journal = journal(&folder.0, SystemDisk);
    let open = row(1, 5);
    drop(journal.push(RecordRef::Reserved { id: 7, deadline: UnixMs::new(9), row: &open }));
    journal.rotate(std::iter::once(RecordRef::Reserved { id: 7, deadline: UnixMs::new(9), row: &open }));
    journal.push(RecordRef::Voided { id: 3 }).written().await.unwrap();
    assert_eq!(journal.position().segment, 2);
    until("the new segment is synced", || journal.shared.synced_segment.load(Ordering::SeqCst) == 2).await;
    journal.forget_before(2).unwrap();
    drop(journal);
    let held = Folder::hold(&folder.0).unwrap();
    let replayed = replay(&held, |_| {}).unwrap();
    assert_eq!(replayed.open.keys().copied().collect::<Vec<_>>(), [7]);
    assert_eq!((replayed.first_segment, replayed.next_segment, replayed.next_seq), (2, 3, 4));
}

#[tokio::test]
async fn a_reader_follows_over_segments_and_gives_each_record_once() {
    let folder = TestFolder::new();
    let journal = journal(&folder.0, SystemDisk);
    let mut reader = Reader::new(folder.0.clone(), 0, 3);
    let mut seen = Vec::new();
    for id in 1..=40_u64 {
        journal.push(RecordRef::Voided { id }).written().await.unwrap();
        if id % 7 == 0 {
            journal.rotate(std::iter::empty());
        }
        if id % 3 == 0 {
            reader.read(journal.position()).unwrap();
            let some: Vec<u64> = reader.entries(2).iter().map(|entry| entry.seq).collect();
            reader.take(some.len());
            seen.extend(some);
        }
    }
    journal.push(RecordRef::Voided { id: 41 }).written().await.unwrap();
    loop {
        reader.read(journal.position()).unwrap();
        let some: Vec<u64> = reader.entries(5).iter().map(|entry| entry.seq).collect();
        reader.take(some.len());
        if some.is_empty() {
            break;
        }
        seen.extend(some);
    }
    assert_eq!(seen, (4..=41).collect::<Vec<_>>(), "from after what was applied");
    assert_eq!((reader.needs(), reader.applied()), (journal.position().segment, 41));
}

#[tokio::test]
async fn f26_a_full_disk_tells_who_waits_and_goes_on_when_there_is_room() {
    let folder = TestFolder::new();
    let disk = SmallDisk(Arc::new(AtomicI64::new(2000)));
    let journal = journal(&folder.0, disk.clone());
    let row = row(1, 5);
    let mut pushed = 0;
    let refused = loop {
        pushed += 1;
        let receipt = journal.push(RecordRef::Reserved { id: pushed, deadline: UnixMs::new(9), row: &row });
        if receipt.written().await.is_err() {
            break pushed;
        }
    };
    assert!(refused > 2, "some fitted");
    assert!(!journal.is_up());
    // What money depends on is kept; what is waited for fails at once.
    pushed += 1;
    assert_eq!(journal.push(RecordRef::Voided { id: refused }).written().await, Err(NotWritten));
    disk.0.store(1 << 30, Ordering::SeqCst);
    until("it is up again", || journal.is_up()).await;
    pushed += 1;
    journal.push(RecordRef::Voided { id: 99 }).written().await.unwrap();
    drop(journal);
    let found = entries(&folder.0);
    assert_eq!(found.len() as u64, pushed, "nothing is lost, nothing is there twice");
    assert_eq!(found.last().unwrap().record, Record::Voided { id: 99 });
}

#[tokio::test]
async fn f26_while_the_disk_is_full_rows_without_cost_are_bounded() {
    let folder = TestFolder::new();
    let disk = SmallDisk(Arc::new(AtomicI64::new(50)));
    let journal = journal(&folder.0, disk.clone());
    let (row, request) = (row(1, 5), request_row(2));
    let reserved = RecordRef::Reserved { id: 1, deadline: UnixMs::new(9), row: &row };
    assert_eq!(journal.push(reserved).written().await, Err(NotWritten));
    let free = |n: u64| {
        for _ in 0..n {
            drop(journal.push(RecordRef::Request { row: &request }));
        }
    };
    let waiting = || journal.shared.queue.lock().bytes.len();
    free(150_000);
    let full = waiting();
    assert!(full > BACKLOG && full < BACKLOG + 1024, "{full}");
    free(1000);
    assert_eq!(waiting(), full);
    drop(journal.push(RecordRef::Voided { id: 1 }));
    assert!(waiting() > full, "money is never dropped");
    disk.0.store(1 << 30, Ordering::SeqCst);
}

#[tokio::test]
async fn a_disk_that_stays_full_does_not_hold_up_the_end() {
    let folder = TestFolder::new();
    let journal = journal(&folder.0, SmallDisk(Arc::new(AtomicI64::new(50))));
    let row = row(1, 5);
    drop(journal.push(RecordRef::Reserved { id: 1, deadline: UnixMs::new(9), row: &row }));
    drop(journal);
    assert!(entries(&folder.0).is_empty());
}

#[tokio::test]
async fn a_sync_that_fails_takes_the_ledger_down_until_one_works() {
    let folder = TestFolder::new();
    let disk = SmallDisk(Arc::new(AtomicI64::new(1 << 20)));
    let journal = journal(&folder.0, disk.clone());
    disk.0.store(-1, Ordering::SeqCst);
    let _ = journal.push(RecordRef::Voided { id: 1 }).written().await;
    until("it is down", || !journal.is_up()).await;
    disk.0.store(1 << 20, Ordering::SeqCst);
    until("it is up again", || journal.is_up()).await;
}

#[test]
fn two_processes_cannot_hold_one_folder() {
    let folder = TestFolder::new();
    let held = Folder::hold(&folder.0).unwrap();
    let refused = Folder::hold(&folder.0).unwrap_err();
    assert!(refused.to_string().contains("another gateway holds"), "{refused}");
    drop(held);
    Folder::hold(&folder.0).unwrap();
}

#[tokio::test]
async fn a_segment_of_another_version_stops_the_start_and_says_what_to_do() {
    let folder = TestFolder::new();
    drop(journal(&folder.0, SystemDisk));
    let path = file(&folder.0, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[6] = 9;
    let check = blake3::hash(&bytes[..16]);
    bytes[16..24].copy_from_slice(&check.as_bytes()[..8]);
    std::fs::write(&path, bytes).unwrap();
    let held = Folder::hold(&folder.0).unwrap();
    let refused = replay(&held, |_| {}).unwrap_err().to_string();
    assert!(refused.contains("journal version 9") && refused.contains("stop it in good order"), "{refused}");
}

#[tokio::test]
async fn damage_in_the_middle_keeps_a_copy_and_every_good_record() {
    let folder = TestFolder::new();
    let journal = journal(&folder.0, SystemDisk);
    for id in 1..=5 {
        journal.push(RecordRef::Voided { id }).written().await.unwrap();
    }
    drop(journal);
    let path = file(&folder.0, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[SEGMENT_HEAD + 15] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let held = Folder::hold(&folder.0).unwrap();
    let mut seqs = Vec::new();
    let replayed = replay(&held, |entry| seqs.push(entry.seq)).unwrap();
    assert_eq!(seqs.len(), 4);
    assert!(replayed.damaged.len() == 1 && path.with_extension("damaged").exists());
}
