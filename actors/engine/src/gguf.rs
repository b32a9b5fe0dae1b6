//! Looks at a model file before llama.cpp does, to tell an absent file from one that is no model.
//!
//! Reads eight bytes. Whether the rest can be loaded only llama.cpp knows.

use spillway_actors::gpu::frame::{LoadFailure, LoadFailureKind};
use std::{fs::File, io::Read, path::Path};

const MAGIC: [u8; 4] = *b"GGUF";
/// Versions llama.cpp reads (version 1 is no longer supported).
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// `Missing` for a file that cannot be read, `Corrupt` for one that is no GGUF.
pub fn check(path: &Path) -> Result<(), LoadFailure> {
    let missing = |reason: &dyn std::fmt::Display| LoadFailure {
        kind: LoadFailureKind::Missing,
        message: format!("cannot read {}: {reason}", path.display()),
    };
    let corrupt = |reason: String| LoadFailure {
        kind: LoadFailureKind::Corrupt,
        message: format!("{} is not a model: {reason}", path.display()),
    };
    let mut file = File::open(path).map_err(|error| missing(&error))?;
    if file.metadata().map_err(|error| missing(&error))?.is_dir() {
        return Err(missing(&"it is a folder"));
    }
    let mut head = [0; 8];
    file.read_exact(&mut head).map_err(|_| corrupt("it is shorter than a GGUF header".into()))?;
    let [a, b, c, d, version @ ..] = head;
    if [a, b, c, d] != MAGIC {
        return Err(corrupt("it does not begin with GGUF".into()));
    }
    let version = u32::from_le_bytes(version);
    if VERSIONS.contains(&version) { Ok(()) } else { Err(corrupt(format!("GGUF version {version} is unknown"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(name: &str, bytes: &[u8]) -> Option<LoadFailureKind> {
        let path = std::env::temp_dir().join(format!("spillway-gguf-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let outcome = check(&path);
        std::fs::remove_file(&path).unwrap();
        outcome.err().map(|failure| failure.kind)
    }

    #[test]
    fn only_a_gguf_header_of_a_known_version_passes() {
        assert_eq!(kind_of("ok", b"GGUF\x03\0\0\0rest"), None);
        assert_eq!(kind_of("text", b"hello, world"), Some(LoadFailureKind::Corrupt));
        assert_eq!(kind_of("short", b"GGUF"), Some(LoadFailureKind::Corrupt));
        assert_eq!(kind_of("future", b"GGUF\x09\0\0\0"), Some(LoadFailureKind::Corrupt));
    }

    #[test]
    fn an_absent_file_or_a_folder_is_missing() {
        assert_eq!(check(Path::new("/nonexistent/model.gguf")).unwrap_err().kind, LoadFailureKind::Missing);
        assert_eq!(check(&std::env::temp_dir()).unwrap_err().kind, LoadFailureKind::Missing);
    }
}
