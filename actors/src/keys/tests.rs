//! What tests of this folder share.

use super::record::{Digest, KeyPolicy, KeyRecord};
use std::{fs, path::PathBuf};

/// A folder that goes with its value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("spillway-keys-{:016x}", rand::random::<u64>()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A key of this number, without limits.
pub(crate) fn record(number: u64) -> KeyRecord {
    KeyRecord {
        id: format!("key_{number:016x}"),
        name: format!("number {number}"),
        group: "default".into(),
        prefix: "sk-spillway-abcdef".into(),
        digest: Digest(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        pepper: "0".repeat(16),
        created_at: 1,
        expires_at: None,
        revoked_at: None,
        policy: KeyPolicy::default(),
    }
}
