//! Looks at a model file before llama.cpp does, to tell an absent file from one that is no model, is damaged or cut short.

use spillway_actors::{
    gguf::{Gguf, GgufError, inspect},
    gpu::frame::{LoadFailure, LoadFailureKind},
};
use std::path::Path;

/// What the file says of its model. `Missing` for a file that cannot be read, `Corrupt` for one that is no whole model.
pub fn check(path: &Path) -> Result<Gguf, LoadFailure> {
    inspect(path).map_err(|error| LoadFailure {
        kind: match error {
            GgufError::Unreadable(_) => LoadFailureKind::Missing,
            _ => LoadFailureKind::Corrupt,
        },
        message: format!("{} {error}", path.display()),
        gpu_layers: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_file_is_missing_and_one_that_is_no_model_corrupt() {
        assert_eq!(check(Path::new("/nonexistent/model.gguf")).unwrap_err().kind, LoadFailureKind::Missing);
        assert_eq!(check(&std::env::temp_dir()).unwrap_err().kind, LoadFailureKind::Missing);
        let own = std::env::current_exe().unwrap();
        let failure = check(&own).unwrap_err();
        assert_eq!(failure.kind, LoadFailureKind::Corrupt);
        assert!(failure.message.contains(own.to_str().unwrap()));
    }
}
