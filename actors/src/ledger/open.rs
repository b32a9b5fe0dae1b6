//! Opening a ledger: take the journal's folder, open the database, read what the database lacks out of the journal, and
//! resolve what was open when the last run died. Nothing is served before that is done, but for a disk without room: then
//! local targets serve, and opening is tried again until it works.

use super::{
    books::{Books, Ledger, Outlet},
    journal::{Begin, Disk, Folder, FolderError, Journal, OWNER_FILE, Replay, SystemDisk, replay},
    store::{Access, MemoryStore, SqlStore, Store, StoreError, new_name},
    unix_now,
};
use crate::{
    config::{LedgerConfig, LedgerPlace},
    domain::UnixMs,
    task,
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// In the journal's folder: the name of the ledger whose journal it is.
const NAME: &str = "ledger";

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the journal in {folder} holds records that are not for the database that [ledger] url names: it belongs to another \
         one, or another gateway has written to this one since. Name the one it belongs to, or another journal_dir"
    )]
    OtherLedger { folder: String },
    #[error("the ledger's journal cannot be begun: {0}")]
    Journal(#[from] io::Error),
}

impl OpenError {
    /// Whether it ends once the disk has room, with nothing to be decided by anybody.
    fn is_want_of_room(&self) -> bool {
        let is_full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Folder(FolderError::Io { source, .. }) | Self::Journal(source) => is_full(source),
            Self::Store(error) => matches!(error, StoreError::NoRoom { .. }),
            Self::Folder(_) | Self::OtherLedger { .. } => false,
        }
    }
}

/// What a ledger waits with until it can be opened.
pub(super) struct Waiting {
    config: LedgerConfig,
    pub(super) why: String,
}

/// A ledger that was opened, before anybody has it.
struct Parts {
    books: Books,
    journal: Journal,
    store: Arc<dyn Store>,
    applied: u64,
    replay: Replay,
    began: Instant,
}

impl Ledger {
    /// Without room on its disk it is opened later, by whoever fills it.
    ///
    /// # Errors
    /// Another gateway holds it, its database cannot be used or is damaged, or its journal cannot be written.
    pub async fn open(config: &LedgerConfig, now: UnixMs) -> Result<Self, OpenError> {
        Self::open_on(config, now, Box::new(SystemDisk)).await
    }

    pub(super) async fn open_on(config: &LedgerConfig, now: UnixMs, disk: Box<dyn Disk>) -> Result<Self, OpenError> {
        let Some(folder) = config.journal_dir.as_ref().filter(|_| !matches!(config.place, LedgerPlace::Memory)) else {
            return Ok(Self::in_memory(config.budget));
        };
        match parts(config, folder, now, disk, store(&config.place)).await {
            Ok(parts) => Ok(Self::opened(parts, now, config.retention)),
            Err(error) if error.is_want_of_room() => {
                tracing::error!(%error, "the ledger cannot be opened: only local targets serve until its disk has room");
                let waiting = Waiting { config: config.clone(), why: error.to_string() };
                let books = Books::new(config.budget);
                Ok(Self::with(books, OnceLock::new(), Some(waiting), 0, config.retention))
            }
            Err(error) => Err(error),
        }
    }

    /// With a journal on this disk and a database that outlives it in memory.
    #[cfg(test)]
    pub(crate) async fn simulated(
        config: &LedgerConfig,
        folder: &Path,
        disk: Box<dyn Disk>,
        store: Arc<dyn Store>,
    ) -> Result<Self, OpenError> {
        let now = unix_now();
        let parts = parts(config, folder, now, disk, std::future::ready(Ok(store))).await?;
        Ok(Self::opened(parts, now, config.retention))
    }

    fn opened(parts: Parts, now: UnixMs, retention: Option<Duration>) -> Self {
        let Parts { books, journal, store, applied, replay, began } = parts;
        let ledger = Self::of(books, Outlet::Journal(journal), store, applied, retention);
        ledger.take_over(replay, applied, now, began);
        ledger
    }

    /// Opens what could not be opened at the start.
    pub(super) async fn open_at_last(&self) -> Result<(), OpenError> {
        let Some(waiting) = &self.inner.waiting else { return Ok(()) };
        let Some(folder) = &waiting.config.journal_dir else { return Ok(()) };
        let now = unix_now();
        let store = store(&waiting.config.place);
        let opened = parts(&waiting.config, folder, now, Box::new(SystemDisk), store).await?;
        let Parts { books, journal, store, applied, replay, began } = opened;
        {
            // Nobody writes in between: ids and numbers go on from those of the database.
            let mut kept = self.inner.books.lock();
            *kept = books.instead_of(&kept);
            self.inner.applied.store(applied, Ordering::Release);
            drop(self.inner.opened.set((Outlet::Journal(journal), store)));
        }
        self.take_over(replay, applied, now, began);
        Ok(())
    }

    fn take_over(&self, replay: Replay, applied: u64, now: UnixMs, began: Instant) {
        let unapplied = replay.next_seq.saturating_sub(applied + 1);
        let resolved = self.resolve(replay.open.into_iter().map(|(id, (row, _))| (id, row)), now);
        for (file, bytes) in &replay.damaged {
            tracing::error!(file = %file.display(), bytes, "the ledger's journal was damaged: a copy is kept beside it");
        }
        let took_ms = began.elapsed().as_millis() as u64;
        tracing::info!(unapplied, interrupted = resolved, took_ms, "ledger opened");
    }
}

async fn store(place: &LedgerPlace) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match place {
        LedgerPlace::Memory => Arc::new(MemoryStore::default()),
        LedgerPlace::Sqlite(path) => Arc::new(SqlStore::sqlite(path.clone(), Access::Write).await?),
        LedgerPlace::Postgres(url) => Arc::new(SqlStore::postgres(url, Access::Write).await?),
    })
}

async fn parts(
    config: &LedgerConfig,
    folder: &Path,
    now: UnixMs,
    disk: Box<dyn Disk>,
    store: impl Future<Output = Result<Arc<dyn Store>, StoreError>>,
) -> Result<Parts, OpenError> {
    let (began, folder) = (Instant::now(), folder.to_owned());
    let folder = blocking(move || Folder::hold(&folder)).await??;
    let store = store.await?;
    let mut opening = store.opening(now).await?;
    let (folder, known) = {
        let (ledger, is_new) = (opening.ledger.clone(), opening.applied == 0);
        blocking(move || knows(&folder, &ledger, is_new).map(|known| (folder, known))).await??
    };
    if !known {
        if opening.applied > 0 {
            // The journal that it was filled from has nothing more to say here.
            opening.ledger = new_name();
            store.rename(&opening.ledger).await?;
        }
        write_name(folder.path(), &opening.ledger)?;
    }
    let applied = opening.applied;
    let mut books = Books::new(config.budget);
    let (folder, mut books, replay) = blocking(move || {
        books.open(opening, now);
        let replayed = replay(&folder, |entry| {
            if entry.seq > applied {
                books.replay(&entry.record, now);
            }
        })?;
        Ok::<_, OpenError>((folder, books, replayed))
    })
    .await??;
    let seq = replay.next_seq.max(applied + 1);
    // Ids are told apart from those of earlier runs, which may still be in the journal: there are fewer ids than records.
    books.begin_ids(seq);
    let begin = Begin { segment: replay.next_segment, seq, bytes: replay.bytes, max_bytes: config.max_journal_bytes };
    let journal = Journal::start(folder, begin, disk)?;
    Ok(Parts { books, journal, store, applied, replay, began })
}

/// A journal's records are told from another one's by their numbers only, so a database is filled from one folder at a time.
/// `false`: this folder is to become that one. It may if it holds no records, or if the database holds nothing yet.
fn knows(folder: &Folder, ledger: &str, is_new: bool) -> Result<bool, OpenError> {
    let named = fs::read_to_string(folder.path().join(NAME)).unwrap_or_default();
    if named.trim() == ledger {
        return Ok(true);
    }
    if !is_new && folder.holds_records()? {
        return Err(OpenError::OtherLedger { folder: folder.path().display().to_string() });
    }
    Ok(false)
}

fn write_name(folder: &Path, ledger: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(OWNER_FILE);
    options.open(folder.join(NAME))?.write_all(ledger.as_bytes())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    task::blocking(work).await.map_err(io::Error::other)
}
