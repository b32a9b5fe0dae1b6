//! Models by name: the built-in catalogue (`config/models.toml`) and the operator's own `[models.NAME]` tables. Knows where
//! a model comes from, where its file lies and how it is recognised; downloads nothing.

use super::source::Source;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const MODELS: &str = include_str!("../../../config/models.toml");

/// What a model can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    Chat,
    Tools,
    Embeddings,
    /// Fills a hole in a text.
    Fim,
}

impl Capability {
    pub(super) const WORDS: [(&'static str, Self); 4] =
        [("chat", Self::Chat), ("tools", Self::Tools), ("embeddings", Self::Embeddings), ("fim", Self::Fim)];
}

/// Catalogue name → model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Catalogue(BTreeMap<String, CatalogueModel>);

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueModel {
    pub title: String,
    /// File name under the cache directory's `models/`: its source's own place, unless the entry names another.
    pub file: String,
    /// Where it can be had, tried in order.
    pub sources: Vec<Source>,
    /// `None`: not known; then what a source says of it counts.
    #[serde(default)]
    pub sha256: Option<String>,
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Tokens it was trained for.
    #[serde(default)]
    pub context_tokens: Option<u32>,
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// Catalogue names of smaller quantisations of the same model, the largest first.
    #[serde(default)]
    pub smaller: Vec<String>,
}

impl Catalogue {
    /// The compiled-in catalogue. A test proves that it parses; were it broken it would be empty, never a panic.
    pub fn built_in() -> Self {
        toml::from_str(MODELS).unwrap_or_default()
    }

    pub fn get(&self, name: &str) -> Option<&CatalogueModel> {
        self.0.get(name)
    }

    pub(super) fn insert(&mut self, name: String, model: CatalogueModel) {
        self.0.insert(name, model);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &CatalogueModel)> {
        self.0.iter().map(|(name, model)| (name.as_str(), model))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Files of the smaller quantisations of a model, wherever they may be.
    pub fn smaller_files(&self, model: &CatalogueModel, cache_dir: &Path) -> Vec<PathBuf> {
        model.smaller.iter().filter_map(|name| Some(self.get(name)?.path(cache_dir))).collect()
    }
}

impl CatalogueModel {
    /// An entry for what is known by its source only.
    pub fn from_source(source: Source) -> Self {
        Self {
            title: source.to_string(),
            file: source.file(),
            sources: vec![source],
            sha256: None,
            bytes: None,
            context_tokens: None,
            capabilities: Vec::new(),
            smaller: Vec::new(),
        }
    }

    pub fn path(&self, cache_dir: &Path) -> PathBuf {
        cache_dir.join("models").join(&self.file)
    }

    /// Where an earlier version kept it, if elsewhere. Whatever lies there may be another model of the same name.
    pub fn former_path(&self, cache_dir: &Path) -> Option<PathBuf> {
        let source = self.sources.first().filter(|source| source.file() == self.file)?;
        Some(cache_dir.join("models").join(source.former_file()?))
    }

    /// Whether the file of one may stand for the other.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        match (&self.sha256, &other.sha256) {
            (Some(one), Some(two)) => one == two,
            _ => self.sources.first() == other.sources.first(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_names_the_default_model() {
        let catalogue = Catalogue::built_in();
        let model = catalogue.get("smollm2-135m").unwrap();
        assert_eq!(model.sha256.as_ref().map(String::len), Some(64));
        assert!(matches!(&model.sources[..], [Source::Pip { .. }, ..]), "{:?}", model.sources);
        assert_eq!(model.path(Path::new("/cache")), PathBuf::from("/cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    }

    #[test]
    fn every_entry_says_where_it_comes_from_and_how_it_is_recognised() {
        let catalogue = Catalogue::built_in();
        for (name, model) in catalogue.iter() {
            assert!(!model.sources.is_empty() && model.bytes.is_some(), "{name}");
            let digest = model.sha256.as_deref().unwrap_or_default();
            assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
            for smaller in &model.smaller {
                let smaller = catalogue.get(smaller).unwrap_or_else(|| panic!("{name} names {smaller}"));
                assert!(smaller.bytes < model.bytes, "{name}");
            }
        }
    }
}
