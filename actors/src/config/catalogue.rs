//! The models that `[[local]] model` may name (`config/models.toml`). Knows names and files; downloads nothing.

use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const MODELS: &str = include_str!("../../../config/models.toml");

/// Catalogue name → model.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Catalogue(BTreeMap<String, CatalogueModel>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueModel {
    pub title: String,
    /// File name under the cache directory's `models/`.
    pub file: String,
    /// Python package, its version, and the file inside its wheel.
    pub package: String,
    pub version: String,
    pub member: String,
    pub sha256: String,
    pub bytes: u64,
}

impl Catalogue {
    /// The compiled-in catalogue. A test proves that it parses; were it broken it would be empty, never a panic.
    pub fn built_in() -> Self {
        toml::from_str(MODELS).unwrap_or_else(|_| Self(BTreeMap::new()))
    }

    pub fn get(&self, name: &str) -> Option<&CatalogueModel> {
        self.0.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl CatalogueModel {
    pub fn path(&self, cache_dir: &Path) -> PathBuf {
        cache_dir.join("models").join(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_names_the_default_model() {
        let catalogue = Catalogue::built_in();
        assert_eq!(catalogue.names().collect::<Vec<_>>(), ["smollm2-135m"]);
        let model = catalogue.get("smollm2-135m").unwrap();
        assert_eq!(model.sha256.len(), 64);
        assert_eq!(model.path(Path::new("/cache")), PathBuf::from("/cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    }
}
