//! Brings the store up to what the journal says: off the request path, in order, in bounded batches. What was applied is
//! forgotten by the journal. Runs inside LedgerActor; a run that is dropped half way is repeated by the next one.

use super::{
    books::{Ledger, Outlet},
    journal::{Journal, Position, Reader},
    open::OpenError,
    row::{AttemptRow, RequestRow},
    store::{Line, Question, StoreError},
};
use crate::{domain::UnixMs, task};
use std::{io, sync::atomic::Ordering, time::Duration};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

/// Entries of one transaction: each costs a sync of the database's file, whatever is in it.
const BATCH: usize = 4096;
/// Rows of each kind that one look at the retention removes.
const PRUNE: usize = 1000;
/// How long a reading waits for what was posted just before it.
const CATCH_UP: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(1);
/// How long an orderly end waits for the database.
const LAST_FILL: Duration = Duration::from_secs(5);

/// Where the reading of the journal is; `None` until the first time, or after a run that was dropped.
#[derive(Debug, Default)]
pub(super) struct Feed(Mutex<Option<Reader>>);

#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the ledger's journal cannot be read: {0}")]
    Journal(#[from] io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Ledger {
    /// Until the store has everything that is written now.
    pub(super) async fn fill(&self) -> Result<(), FillError> {
        self.inner.told.store(false, Ordering::Release);
        match self.inner.outlet() {
            None => Ok(self.open_at_last().await?),
            Some(Outlet::Journal(journal)) => self.fill_from(journal).await,
            Some(Outlet::Memory(store)) => {
                let mut books = self.inner.books.lock();
                if let Some(last) = books.pending.back() {
                    self.inner.applied.store(last.seq, Ordering::Release);
                }
                store.apply_now(books.pending.make_contiguous());
                books.pending.clear();
                Ok(())
            }
        }
    }

    async fn fill_from(&self, journal: &Journal) -> Result<(), FillError> {
        let mut slot = self.inner.feed.0.lock().await;
        // What comes meanwhile gathers until the next time: else there would be a transaction for every few rows.
        let written = journal.position();
        loop {
            let applied = self.inner.applied.load(Ordering::Acquire);
            let reader = slot.take().unwrap_or_else(|| Reader::new(journal.folder(), 0, applied));
            let reader = slot.insert(read_on(reader, written).await?);
            let entries = reader.entries(BATCH);
            let count = entries.len();
            if count == 0 {
                break;
            }
            self.inner.store()?.apply(entries).await?;
            reader.take(count);
            self.inner.applied.store(reader.applied(), Ordering::Release);
        }
        let needed = slot.as_ref().map_or(0, Reader::needs);
        drop(slot);
        self.forget(needed).await?;
        Ok(())
    }

    async fn forget(&self, needed: u64) -> io::Result<()> {
        let ledger = self.clone();
        blocking(move || ledger.inner.journal().map_or(Ok(()), |journal| journal.forget_before(needed))).await?
    }

    /// Begins a new segment of the journal when the current one is large: what is open goes along.
    pub(super) fn rotate_if_large(&self) {
        if let Some(journal) = self.inner.journal()
            && journal.is_full_segment()
        {
            let books = self.inner.books.lock();
            journal.rotate(books.carried());
        }
    }

    /// Removes rows that are older than the retention, a bounded number of them. `true`: there may be more.
    pub(super) async fn prune(&self, now: UnixMs) -> Result<bool, StoreError> {
        let Some(retention) = self.inner.retention else { return Ok(false) };
        Ok(self.inner.store()?.prune(now.minus(retention), PRUNE).await? > 0)
    }

    /// So that whoever reads finds what was posted before. A store that fails or is far behind is read as it is.
    async fn catch_up(&self) {
        let posted = self.last_seq();
        let caught_up = async {
            if let Some(journal) = self.inner.journal() {
                while journal.written_seq() < posted {
                    sleep(LOOK).await;
                }
            }
            if self.inner.applied.load(Ordering::Acquire) < posted
                && let Err(error) = self.fill().await
            {
                tracing::warn!(%error, "the ledger's rows are read as they are");
            }
        };
        let _ = timeout(CATCH_UP, caught_up).await;
    }

    /// Attempts numbered from `from` on, oldest first, at most `limit`, and the number after the last of them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn attempts(&self, from: u64, limit: usize) -> Result<(Vec<AttemptRow>, u64), StoreError> {
        self.catch_up().await;
        let rows = self.inner.store()?.attempts(from, limit).await?;
        let next = rows.last().map_or(from, |(number, _)| number + 1);
        Ok((rows.into_iter().map(|(_, row)| row).collect(), next))
    }

    /// The newest requests, newest first, at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn requests(&self, limit: usize) -> Result<Vec<RequestRow>, StoreError> {
        self.catch_up().await;
        self.inner.store()?.requests(limit).await
    }

    /// # Errors
    /// The store cannot be read.
    pub async fn usage(&self, question: Question) -> Result<Vec<Line>, StoreError> {
        self.catch_up().await;
        self.inner.store()?.usage(question).await
    }

    /// The orderly end: everything is written, synced and, if the database answers, applied; then the journal is empty.
    pub async fn close(&self) {
        let Ok(store) = self.inner.store() else { return };
        let ledger = self.clone();
        let closed = blocking(move || {
            if let Some(journal) = ledger.inner.journal() {
                journal.close();
            }
        });
        let began = Instant::now();
        if let Err(error) = closed.await {
            tracing::error!(%error, "the ledger's journal was not closed in good order");
        }
        match timeout(LAST_FILL, self.fill()).await {
            Ok(Ok(())) => self.forget_all().await,
            Ok(Err(error)) => tracing::warn!(%error, "the journal keeps what the database lacks"),
            Err(_) => tracing::warn!("the database is slow: the journal keeps what it lacks"),
        }
        let _ = timeout(LAST_FILL, store.close()).await;
        tracing::debug!(took_ms = began.elapsed().as_millis() as u64, "ledger closed");
    }

    async fn forget_all(&self) {
        let is_open = self.snapshot().open_reservations > 0;
        let complete = self.inner.applied.load(Ordering::Acquire) >= self.last_seq();
        if is_open || !complete {
            return;
        }
        let ledger = self.clone();
        let forgotten = blocking(move || ledger.inner.journal().map_or(Ok(()), Journal::forget_all));
        if let Ok(Err(error)) = forgotten.await {
            tracing::warn!(%error, "the ledger's journal could not be emptied");
        }
    }
}

async fn read_on(mut reader: Reader, written: Position) -> io::Result<Reader> {
    blocking(move || {
        reader.read(written)?;
        Ok(reader)
    })
    .await?
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    task::blocking(work).await.map_err(io::Error::other)
}
