//! Writing the journal. Who has queued a record also writes it, with whatever others have queued: into the page cache, which
//! takes microseconds, while waking a thread and being woken by it takes tens. A thread does it where that may take longer: when
//! the disk is slow, full or broken, and at a new segment. Another thread syncs every 100 ms, so that no write waits for a disk
//! to turn.
//!
//! A write that fails changes nothing that is promised: who waits for it is told, the bytes are kept and tried again at
//! the same place, and until that works nothing paid may start.

use super::{
    Folder, SEGMENT_BYTES,
    folder::{OWNER_FILE, file, remove_before, sync_names},
    frame::{self, SEGMENT_HEAD},
    record::RecordRef,
};
use crate::observe;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// Between two syncs.
const SYNC: Duration = Duration::from_millis(100);
/// Between two tries of a write that failed.
const RETRY: Duration = Duration::from_millis(200);
/// A write into the page cache takes microseconds. One that took longer than this waited for the disk: for a while the thread
/// does it.
const SLOW: Duration = Duration::from_millis(20);
const LEFT_TO_THE_THREAD: Duration = Duration::from_secs(1);
/// Batches that one caller writes for others who came meanwhile.
const ROUNDS: usize = 8;
/// Of what waits while the disk is full. Beyond it, rows that cost nothing are dropped.
const BACKLOG: usize = 4 << 20;

/// What the writer needs of a file system; tests put faults in between.
pub trait Disk: Send + Sync + 'static {
    /// Opens a segment, new or begun by a try that failed.
    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).truncate(true).write(true).mode(OWNER_FILE).open(path)
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {}

/// How far the journal is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub segment: u64,
    pub bytes: u64,
}

/// The record may not be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ledger's journal cannot be written")]
pub struct NotWritten;

/// A record on its way to the disk. It goes there when the receipt is waited for or dropped, which is to be done when no lock is
/// held.
#[derive(Default)]
#[must_use = "who promised that the record is written must wait for it"]
pub struct Receipt {
    way: Way,
    shared: Option<Arc<Shared>>,
}

#[derive(Debug, Default)]
enum Way {
    /// Nothing is owed.
    #[default]
    Done,
    Waiting(oneshot::Receiver<()>),
    Failed,
}

impl Receipt {
    /// # Errors
    /// The write failed. It is tried again, but nobody knows when.
    pub async fn written(mut self) -> Result<(), NotWritten> {
        let way = std::mem::take(&mut self.way);
        drop(self);
        match way {
            Way::Done => Ok(()),
            Way::Waiting(written) => written.await.map_err(|_| NotWritten),
            Way::Failed => Err(NotWritten),
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.write_on();
        }
    }
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Offsets in `bytes` at which a new segment begins.
    cuts: Vec<usize>,
    waiting: Vec<oneshot::Sender<()>>,
    next_seq: u64,
    /// Of the segment that is written to, counting what waits.
    segment_bytes: u64,
    closed: bool,
}

struct Shared {
    folder: Folder,
    max_bytes: u64,
    queue: Mutex<Queue>,
    /// Whoever holds it writes, and takes from the queue only then: so records are written in their order.
    open: Mutex<Option<Open>>,
    /// A batch that could not be written: the thread insists on it before anything else is written.
    stuck: Mutex<Option<Taken>>,
    /// Wakes the thread.
    work: Condvar,
    started: Instant,
    /// Milliseconds after `started` until when the thread writes, because the disk is slow.
    slow_until: AtomicU64,
    position: Mutex<Position>,
    /// Not synced yet, oldest first; the last one is being written.
    unsynced: Mutex<Vec<Arc<File>>>,
    wake_sync: Condvar,
    write_works: AtomicBool,
    sync_works: AtomicBool,
    /// Set once the writer has ended.
    ended: AtomicBool,
    /// The newest segment that was synced at least once.
    synced_segment: AtomicU64,
    /// The last record that was written.
    written_seq: AtomicU64,
    /// Of all segments.
    bytes: AtomicU64,
    disk: Box<dyn Disk>,
}

/// The journal of a running gateway.
pub struct Journal {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Where a run's journal begins.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    pub segment: u64,
    pub seq: u64,
    /// Of the segments that are there.
    pub bytes: u64,
    /// Beyond this much, nothing paid starts until the database has caught up.
    pub max_bytes: u64,
}

impl Journal {
    /// Begins a new segment and starts the threads.
    ///
    /// # Errors
    /// The segment cannot be made, or a thread cannot be started.
    pub fn start(folder: Folder, begin: Begin, disk: Box<dyn Disk>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            folder,
            max_bytes: begin.max_bytes,
            queue: Mutex::new(Queue { next_seq: begin.seq, segment_bytes: SEGMENT_HEAD as u64, ..Queue::default() }),
            open: Mutex::default(),
            stuck: Mutex::default(),
            work: Condvar::new(),
            started: Instant::now(),
            slow_until: AtomicU64::new(0),
            position: Mutex::default(),
            unsynced: Mutex::default(),
            wake_sync: Condvar::new(),
            write_works: AtomicBool::new(true),
            sync_works: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            synced_segment: AtomicU64::new(0),
            written_seq: AtomicU64::new(begin.seq - 1),
            bytes: AtomicU64::new(begin.bytes),
            disk,
        });
        let open = Open::begin(&shared, begin.segment)?;
        *shared.open.lock() = Some(open);
        observe::ledger_up(true);
        #[cfg(test)]
        if crate::simulation::is_here() {
            crate::task::detached(simulated::threads(Arc::downgrade(&shared)));
            return Ok(Self { shared, threads: Mutex::default() });
        }
        let (writing, syncing) = (Arc::clone(&shared), Arc::clone(&shared));
        let writer = thread::Builder::new().name("ledger-write".into()).spawn(move || write_all(&writing))?;
        let syncer = thread::Builder::new().name("ledger-sync".into()).spawn(move || sync_all(&syncing))?;
        Ok(Self { shared, threads: Mutex::new(vec![writer, syncer]) })
    }

    /// Queues a record. Records are written in the order of these calls, once their receipts are dropped or waited for. Never
    /// blocks on the disk.
    pub fn push(&self, record: RecordRef<'_>) -> Receipt {
        Receipt { way: self.queue(record), shared: Some(Arc::clone(&self.shared)) }
    }

    fn queue(&self, record: RecordRef<'_>) -> Way {
        let mut queue = self.shared.queue.lock();
        // Under the lock: who sees it work is found by the writer that clears who waits.
        let works = self.shared.write_works.load(Ordering::Acquire);
        if !works && queue.bytes.len() > BACKLOG && costs_nothing(record) {
            observe::ledger_row_dropped();
            return Way::Failed;
        }
        let (seq, before) = (queue.next_seq, queue.bytes.len());
        if let Err(error) = frame::write(seq, record, &mut queue.bytes) {
            tracing::error!(%error, "a ledger record could not be encoded");
            return Way::Failed;
        }
        queue.next_seq += 1;
        queue.segment_bytes += (queue.bytes.len() - before) as u64;
        if !works {
            return Way::Failed;
        }
        let (written, waiting) = oneshot::channel();
        queue.waiting.push(written);
        Way::Waiting(waiting)
    }

    /// Begins a new segment with these records.
    pub fn rotate<'r>(&self, carried: impl Iterator<Item = RecordRef<'r>>) {
        {
            let mut queue = self.shared.queue.lock();
            let at = queue.bytes.len();
            queue.cuts.push(at);
            queue.segment_bytes = SEGMENT_HEAD as u64;
        }
        for record in carried {
            self.queue(record);
        }
        self.shared.work.notify_one();
    }

    pub fn is_full_segment(&self) -> bool {
        self.shared.queue.lock().segment_bytes >= SEGMENT_BYTES
    }

    /// Whether a paid call may be written down.
    pub fn is_up(&self) -> bool {
        self.shared.is_up()
    }

    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    pub fn position(&self) -> Position {
        *self.shared.position.lock()
    }

    pub fn folder(&self) -> PathBuf {
        self.shared.folder.path().to_owned()
    }

    /// The number of the last record that was pushed.
    pub fn last_seq(&self) -> u64 {
        self.shared.queue.lock().next_seq - 1
    }

    /// The number of the last record that is written.
    pub fn written_seq(&self) -> u64 {
        self.shared.written_seq.load(Ordering::Acquire)
    }

    /// Removes segments before `needed`, once their successor is sure to survive. Blocking.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget_before(&self, needed: u64) -> io::Result<()> {
        let durable = self.shared.synced_segment.load(Ordering::Acquire);
        let freed = remove_before(self.shared.folder.path(), needed.min(durable))?;
        self.shared.bytes.fetch_sub(freed.min(self.bytes()), Ordering::Relaxed);
        Ok(())
    }

    /// Removes every segment of a journal that was closed and is needed no more. Blocking.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget_all(&self) -> io::Result<()> {
        remove_before(self.shared.folder.path(), u64::MAX).map(|_| ())
    }

    /// Writes and syncs what is left and ends the threads. Blocking. Records pushed later are lost.
    pub fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_one();
        #[cfg(test)]
        if crate::simulation::is_here() {
            simulated::last_turn(&self.shared);
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the ledger's journal had panicked");
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Rows that may be dropped when there is no room for them: no money depends on them.
fn costs_nothing(record: RecordRef<'_>) -> bool {
    match record {
        RecordRef::Attempt { reservation: None, row, .. } => row.cost == crate::domain::NanoUsd::ZERO,
        RecordRef::Request { .. } => true,
        RecordRef::Attempt { .. } | RecordRef::Reserved { .. } | RecordRef::Voided { .. } => false,
    }
}

impl Shared {
    fn is_up(&self) -> bool {
        self.write_works.load(Ordering::Acquire)
            && self.sync_works.load(Ordering::Acquire)
            && self.bytes.load(Ordering::Relaxed) < self.max_bytes
    }

    fn set(&self, flag: &AtomicBool, works: bool, what: &'static str, error: Option<&io::Error>) {
        if flag.swap(works, Ordering::AcqRel) != works {
            match error {
                Some(error) => tracing::error!(%error, what, "ledger down: nothing paid starts"),
                None => tracing::info!(what, "ledger up again"),
            }
        }
        observe::ledger_up(self.is_up());
    }
}

/// The segment that is being written.
struct Open {
    file: Arc<File>,
    number: u64,
    bytes: u64,
}

impl Open {
    fn begin(shared: &Shared, number: u64) -> io::Result<Self> {
        let file = Arc::new(shared.disk.open(&file(shared.folder.path(), number))?);
        shared.disk.write(&file, &frame::segment_head(number), 0)?;
        let open = Self { file, number, bytes: SEGMENT_HEAD as u64 };
        shared.bytes.fetch_add(open.bytes, Ordering::Relaxed);
        open.publish(shared);
        Ok(open)
    }

    fn append(&mut self, shared: &Shared, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        shared.disk.write(&self.file, bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.publish(shared);
        Ok(())
    }

    fn publish(&self, shared: &Shared) {
        // Before the position: whoever reads a position finds the file that it is in.
        let mut unsynced = shared.unsynced.lock();
        if !unsynced.iter().any(|file| Arc::ptr_eq(file, &self.file)) {
            unsynced.push(Arc::clone(&self.file));
        }
        drop(unsynced);
        *shared.position.lock() = Position { segment: self.number, bytes: self.bytes };
    }
}

/// What was queued, taken by who writes it.
struct Taken {
    batch: Batch,
    waiting: Vec<oneshot::Sender<()>>,
    /// The number of its last record.
    last: u64,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.cuts.is_empty()
    }

    fn take(&mut self) -> Taken {
        let batch = Batch { bytes: std::mem::take(&mut self.bytes), cuts: std::mem::take(&mut self.cuts), done: 0 };
        Taken { batch, waiting: std::mem::take(&mut self.waiting), last: self.next_seq - 1 }
    }
}

impl Shared {
    /// Writes what is queued, here and now. Who writes already also writes what is queued meanwhile.
    fn write_on(&self) {
        for _ in 0..ROUNDS {
            let Some(open) = self.open.try_lock() else { return };
            if !self.write_here(open) {
                break;
            }
            // Looked at after the lock was given back: who queued a record and found it taken relies on that.
            if self.queue.lock().is_empty() {
                return;
            }
        }
        // Between its look at the queue and its wait, the thread holds this lock.
        drop(self.queue.lock());
        self.work.notify_one();
    }

    /// `false`: the thread must do it.
    fn write_here(&self, mut open: MutexGuard<'_, Option<Open>>) -> bool {
        let writable = self.write_works.load(Ordering::Acquire) && !self.is_slow();
        let Some(open) = open.as_mut().filter(|_| writable) else { return false };
        let mut queue = self.queue.lock();
        if !queue.cuts.is_empty() || queue.closed {
            return false;
        }
        let taken = queue.take();
        drop(queue);
        let began = Instant::now();
        let written = self.write_down(taken, open);
        if began.elapsed() > SLOW {
            self.slow_until.store(self.now_ms() + LEFT_TO_THE_THREAD.as_millis() as u64, Ordering::Relaxed);
        }
        written
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_slow(&self) -> bool {
        self.now_ms() < self.slow_until.load(Ordering::Relaxed)
    }

    /// `false`: it is stuck.
    fn write_down(&self, mut taken: Taken, open: &mut Open) -> bool {
        match taken.batch.write(self, open) {
            Ok(()) => {
                self.written_seq.store(taken.last, Ordering::Release);
                for waiting in taken.waiting {
                    let _ = waiting.send(());
                }
                true
            }
            Err(error) => {
                self.set(&self.write_works, false, "write", Some(&error));
                // Who waits hears at once; who came in between, too.
                taken.waiting.clear();
                self.queue.lock().waiting.clear();
                *self.stuck.lock() = Some(taken);
                false
            }
        }
    }
}

fn write_all(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock();
        while queue.is_empty() && !queue.closed && shared.stuck.lock().is_none() {
            shared.work.wait(&mut queue);
        }
        let ends = queue.is_empty();
        drop(queue);
        let mut open = shared.open.lock();
        let Some(open) = open.as_mut() else { break };
        if let Some(mut taken) = shared.stuck.lock().take() {
            if !insist(shared, &mut taken.batch, open) {
                break;
            }
            shared.written_seq.store(taken.last, Ordering::Release);
            shared.set(&shared.write_works, true, "write", None);
            continue;
        }
        if ends {
            break;
        }
        let taken = shared.queue.lock().take();
        shared.write_down(taken, open);
    }
    shared.ended.store(true, Ordering::Release);
    shared.wake_sync.notify_one();
}

/// Tries until it works. `false`: the gateway ends first.
fn insist(shared: &Shared, batch: &mut Batch, open: &mut Open) -> bool {
    loop {
        let mut queue = shared.queue.lock();
        if !queue.closed {
            shared.work.wait_for(&mut queue, RETRY);
        }
        let closed = queue.closed;
        drop(queue);
        match batch.write(shared, open) {
            Ok(()) => return true,
            Err(error) if closed => {
                tracing::error!(%error, "the ledger's last records could not be written: what they settle is charged in full");
                return false;
            }
            Err(_) => {}
        }
    }
}

/// Bytes on their way, and how much of them is written.
struct Batch {
    bytes: Vec<u8>,
    cuts: Vec<usize>,
    done: usize,
}

impl Batch {
    /// Goes on where the last try stopped.
    fn write(&mut self, shared: &Shared, open: &mut Open) -> io::Result<()> {
        while let Some(cut) = self.cuts.first().copied() {
            open.append(shared, &self.bytes[self.done..cut])?;
            self.done = cut;
            *open = Open::begin(shared, open.number + 1)?;
            self.cuts.remove(0);
        }
        open.append(shared, &self.bytes[self.done..])?;
        self.done = self.bytes.len();
        Ok(())
    }
}

fn sync_all(shared: &Shared) {
    let mut named = 0;
    loop {
        let ended = shared.ended.load(Ordering::Acquire);
        sync_once(shared, &mut named);
        if ended {
            return;
        }
        let mut unsynced = shared.unsynced.lock();
        if !shared.ended.load(Ordering::Acquire) {
            shared.wake_sync.wait_for(&mut unsynced, SYNC);
        }
    }
}

fn sync_once(shared: &Shared, named: &mut u64) {
    let newest = shared.position.lock().segment;
    let files = std::mem::take(&mut *shared.unsynced.lock());
    if let Err(error) = sync(shared, &files, named, newest) {
        shared.set(&shared.sync_works, false, "sync", Some(&error));
        shared.unsynced.lock().splice(0..0, files);
    } else {
        shared.synced_segment.fetch_max(newest, Ordering::AcqRel);
        shared.set(&shared.sync_works, true, "sync", None);
    }
}

/// The names in the folder are synced once for each new segment.
fn sync(shared: &Shared, files: &[Arc<File>], named: &mut u64, newest: u64) -> io::Result<()> {
    for file in files {
        shared.disk.sync(file)?;
    }
    if *named < newest {
        sync_names(shared.folder.path())?;
        *named = newest;
    }
    Ok(())
}

#[cfg(test)]
mod simulated;
#[cfg(test)]
pub(super) mod tests;
