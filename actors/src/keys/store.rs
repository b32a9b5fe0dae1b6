//! Where keys are kept. One trait, so that gateways may one day share a store; what every implementation must do is written
//! down as tests in `conformance`.

#[cfg(test)]
mod conformance;
mod file;
mod memory;

pub use file::FileStore;
pub use memory::MemoryStore;

use super::record::{KeyRecord, MAX_GROUPS, MAX_KEYS};
use futures_util::future::BoxFuture;
use std::{collections::BTreeSet, fmt, io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the key store {path} {what}: {source}")]
    File { path: PathBuf, what: &'static str, source: io::Error },
    /// Never overwritten: somebody must look.
    #[error("the key store {path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("the key store {0} is held by another process that does not let go")]
    Busy(PathBuf),
    #[error("a key of this id or secret exists already")]
    Taken,
    #[error("the store holds {MAX_KEYS} keys that are not revoked, which is as many as it may")]
    Full,
    #[error("the keys are of {MAX_GROUPS} groups already, which is as many as there may be")]
    TooManyGroups,
    #[error("a thread that works on the key store died")]
    Thread,
}

/// Differs whenever the content may have changed. Comparable only to another of the same store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(pub(super) u64);

/// Every key in order of creation, and what to compare later looks with.
#[derive(Debug)]
pub struct Loaded {
    pub keys: Vec<KeyRecord>,
    pub stamp: Stamp,
}

pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

pub trait KeyStore: Send + Sync + fmt::Debug {
    /// All of it, as one moment had it.
    fn load(&self) -> Answer<'_, Loaded>;

    /// Adds a key; it is kept, whatever dies, once this returns. Makes room by forgetting the key revoked longest ago.
    fn insert(&self, key: KeyRecord) -> Answer<'_, ()>;

    /// Marks a key as revoked at `at`; kept once this returns. The first time counts. `None` = no such key.
    fn revoke(&self, id: String, at: u64) -> Answer<'_, Option<KeyRecord>>;

    /// Cheap enough to be asked several times a second.
    fn stamp(&self) -> Answer<'_, Stamp>;
}

/// The rules of a new key beside others, the same for every store.
fn add(keys: &mut Vec<KeyRecord>, key: KeyRecord) -> Result<(), StoreError> {
    if keys.iter().any(|other| other.id == key.id || other.digest == key.digest) {
        return Err(StoreError::Taken);
    }
    if keys.len() >= MAX_KEYS {
        let revoked = keys.iter().enumerate().filter_map(|(at, key)| key.revoked_at.map(|when| (when, at)));
        let Some((_, oldest)) = revoked.min() else { return Err(StoreError::Full) };
        keys.remove(oldest);
    }
    let groups: BTreeSet<&str> = keys.iter().map(|key| key.group.as_str()).collect();
    if groups.len() >= MAX_GROUPS && !groups.contains(key.group.as_str()) {
        return Err(StoreError::TooManyGroups);
    }
    keys.push(key);
    Ok(())
}

/// The key, if it is there, and whether that changed anything.
fn mark_revoked(keys: &mut [KeyRecord], id: &str, at: u64) -> (Option<KeyRecord>, bool) {
    let Some(key) = keys.iter_mut().find(|key| key.id == id) else { return (None, false) };
    let is_new = key.revoked_at.is_none();
    key.revoked_at.get_or_insert(at);
    (Some(key.clone()), is_new)
}
