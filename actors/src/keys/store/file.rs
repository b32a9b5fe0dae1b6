//! Keys in one file: written anew beside the old one, flushed, and put in its place by a rename, so that whoever reads, and
//! whatever dies, finds the old content or the new. A lock file keeps writers (the gateway, the command line) in line.

use super::{Answer, KeyStore, Loaded, Stamp, StoreError, add, mark_revoked};
use crate::{
    keys::{
        pepper::write_private,
        record::{KeyRecord, MAX_KEYS},
    },
    lock::try_hold,
    task,
};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How the file is written; another version is refused rather than misread.
const VERSION: u32 = 1;
/// No store of [`MAX_KEYS`] keys is larger.
const MAX_BYTES: u64 = (MAX_KEYS as u64) * 8192;
/// Tries for the lock, and the pause between them: writers need milliseconds.
const TRIES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Serialize, Deserialize)]
struct Content<K> {
    version: u32,
    keys: K,
}

/// One file. It need not exist: then it holds no key.
#[derive(Debug, Clone)]
pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> StoreError {
        move |source| StoreError::File { path: self.path.clone(), what, source }
    }

    fn damaged(&self, why: impl ToString) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), why: why.to_string() }
    }

    /// Readers need no lock: a rename swaps the whole file.
    fn read(&self) -> Result<Loaded, StoreError> {
        let failed = self.failed("cannot be read");
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Loaded { keys: Vec::new(), stamp: stamp_of(None) });
            }
            Err(error) => return Err(failed(error)),
        };
        let about = file.metadata().map_err(&failed)?;
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(&failed)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(self.damaged("it is larger than any key store"));
        }
        let content: Content<Vec<KeyRecord>> = serde_json::from_str(&text).map_err(|error| self.damaged(error))?;
        if content.version != VERSION {
            return Err(self.damaged(format!("it is of version {}, this is {VERSION}", content.version)));
        }
        Ok(Loaded { keys: content.keys, stamp: stamp_of(Some(&about)) })
    }

    fn write(&self, keys: &[KeyRecord]) -> Result<(), StoreError> {
        let failed = self.failed("cannot be written");
        let text =
            serde_json::to_string_pretty(&Content { version: VERSION, keys }).map_err(|error| self.damaged(error))?;
        let draft = self.path.with_added_extension("new");
        write_private(&draft, text.as_bytes()).map_err(&failed)?;
        fs::rename(&draft, &self.path).map_err(&failed)?;
        // The rename is kept, too.
        File::open(self.folder()).and_then(|folder| folder.sync_all()).map_err(&failed)
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The lock goes with the file that is returned. Waits a bounded time.
    fn lock(&self) -> Result<File, StoreError> {
        let failed = self.failed("cannot be locked");
        let path = self.path.with_added_extension("lock");
        for _ in 0..TRIES {
            match try_hold(&path).map_err(&failed)? {
                Some(file) => return Ok(file),
                None => std::thread::sleep(PAUSE),
            }
        }
        Err(StoreError::Busy(self.path.clone()))
    }

    /// Reads, changes and writes while nobody else does. What the change says it did not change is not written.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<KeyRecord>) -> Result<(T, bool), StoreError>,
    ) -> Result<T, StoreError> {
        let _locked = self.lock()?;
        let mut keys = self.read()?.keys;
        let (value, is_changed) = change(&mut keys)?;
        if is_changed {
            self.write(&keys)?;
        }
        Ok(value)
    }

    /// Files make threads wait, so they get one of their own.
    fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        let store = self.clone();
        async move { task::blocking(move || work(store)).await.unwrap_or(Err(StoreError::Thread)) }.boxed()
    }
}

impl KeyStore for FileStore {
    fn load(&self) -> Answer<'_, Loaded> {
        self.aside(|store| store.read())
    }

    fn insert(&self, key: KeyRecord) -> Answer<'_, ()> {
        self.aside(|store| store.change(|keys| add(keys, key).map(|()| ((), true))))
    }

    fn revoke(&self, id: String, at: u64) -> Answer<'_, Option<KeyRecord>> {
        self.aside(move |store| store.change(|keys| Ok(mark_revoked(keys, &id, at))))
    }

    fn stamp(&self) -> Answer<'_, Stamp> {
        self.aside(|store| match fs::metadata(&store.path) {
            Ok(about) => Ok(stamp_of(Some(&about))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(stamp_of(None)),
            Err(error) => Err(store.failed("cannot be looked at")(error)),
        })
    }
}

/// Every write makes a new file, so at least one of these differs.
fn stamp_of(about: Option<&fs::Metadata>) -> Stamp {
    let mut hasher = DefaultHasher::new();
    let facts = |m: &fs::Metadata| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    about.map(facts).hash(&mut hasher);
    Stamp(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::tests::{Folder, record};
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn the_file_is_its_owners_only_and_a_damaged_one_is_left_alone() {
        let folder = Folder::new();
        let store = FileStore::new(folder.path("keys.json"));
        block_on(store.insert(record(1))).unwrap();
        assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let version = fs::read_to_string(store.path()).unwrap().replace("\"version\": 1", "\"version\": 2");
        for text in ["", "{", "[]", &version] {
            fs::write(store.path(), text).unwrap();
            for damaged in [block_on(store.insert(record(2))).unwrap_err(), block_on(store.load()).unwrap_err()] {
                assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");
            }
            assert_eq!(fs::read_to_string(store.path()).unwrap(), text, "not overwritten");
        }
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error_and_no_panic() {
        let store = FileStore::new("/nonexistent/keys.json");
        assert!(block_on(store.load()).unwrap().keys.is_empty());
        assert!(matches!(block_on(store.insert(record(1))).unwrap_err(), StoreError::File { .. }));
    }

    proptest! {
        /// A writer that died: at any byte of its draft, before or after the rename. The next reader and the next writer
        /// find what was there before it, or all of what it wrote.
        #[test]
        fn whatever_a_dying_writer_leaves_behind_is_the_old_content_or_the_new(
            before in 0..4_u64, cut in 0.0..=1.0_f64, renamed: bool,
        ) {
            let folder = Folder::new();
            let store = FileStore::new(folder.path("keys.json"));
            for number in 0..before {
                block_on(store.insert(record(number))).unwrap();
            }
            let mut keys = block_on(store.load()).unwrap().keys;
            let old = keys.clone();
            keys.push(record(99));
            let text = serde_json::to_string_pretty(&Content { version: VERSION, keys: &keys }).unwrap();
            let draft = store.path.with_added_extension("new");
            if renamed {
                fs::write(&draft, &text).unwrap();
                fs::rename(&draft, store.path()).unwrap();
            } else {
                fs::write(&draft, &text.as_bytes()[..(text.len() as f64 * cut) as usize]).unwrap();
            }
            let found = block_on(store.load()).unwrap().keys;
            prop_assert_eq!(&found, if renamed { &keys } else { &old });
            block_on(store.insert(record(100))).unwrap();
            prop_assert_eq!(block_on(store.load()).unwrap().keys.len(), found.len() + 1);
        }
    }
}
