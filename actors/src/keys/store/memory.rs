//! Keys that go with the process: for tests, and for a gateway that was given no store.

use super::{Answer, KeyStore, Loaded, Stamp, add, mark_revoked};
use crate::keys::record::KeyRecord;
use futures_util::FutureExt;
use parking_lot::Mutex;
use std::{future::ready, sync::Arc};

/// Clones share their content.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    kept: Arc<Mutex<(Vec<KeyRecord>, u64)>>,
}

impl KeyStore for MemoryStore {
    fn load(&self) -> Answer<'_, Loaded> {
        let kept = self.kept.lock();
        ready(Ok(Loaded { keys: kept.0.clone(), stamp: Stamp(kept.1) })).boxed()
    }

    fn insert(&self, key: KeyRecord) -> Answer<'_, ()> {
        let mut kept = self.kept.lock();
        let added = add(&mut kept.0, key);
        kept.1 += u64::from(added.is_ok());
        ready(added).boxed()
    }

    fn revoke(&self, id: String, at: u64) -> Answer<'_, Option<KeyRecord>> {
        let mut kept = self.kept.lock();
        let (key, is_new) = mark_revoked(&mut kept.0, &id, at);
        kept.1 += u64::from(is_new);
        ready(Ok(key)).boxed()
    }

    fn stamp(&self) -> Answer<'_, Stamp> {
        ready(Ok(Stamp(self.kept.lock().1))).boxed()
    }
}
