//! What a configuration is made from. The caller reads files and the environment and passes text in.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The lowest layer: the documented default file itself.
pub const BUILT_IN: &str = include_str!("../../../config/spillway.toml");

/// Reads a key or token file named in the configuration.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// Everything `load` looks at.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The user's file: its name for messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// The whole environment: `SPILLWAY__SECTION__KEY` variables and provider keys are picked from it.
    pub env: Vec<(String, String)>,
    /// Flags, as dotted paths (`local.0.gpu`).
    pub overrides: Vec<(String, toml::Value)>,
    /// Where models are kept; see [`default_cache_dir`].
    pub cache_dir: PathBuf,
    /// Set by `serve --demo`.
    pub demo: Option<DemoCloud>,
    /// Set by commands that look at keys or the ledger: whether anything could serve is not their business.
    pub need_not_serve: bool,
}

impl Sources {
    /// A variable that is set and not blank.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let (_, value) = self.env.iter().find(|(key, _)| key == name)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }
}

/// A simulated provider that stands in for every configured cloud.
#[derive(Debug, Clone)]
pub struct DemoCloud {
    /// With its path, e.g. `http://127.0.0.1:9000/v1`.
    pub base_url: String,
}

/// `$SPILLWAY_CACHE`, else `$XDG_CACHE_HOME/spillway`, else `~/.cache/spillway`, else `.cache/spillway` here.
pub fn default_cache_dir(env: &[(String, String)]) -> PathBuf {
    let variable = |name: &str| {
        env.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| PathBuf::from(value))
    };
    variable("SPILLWAY_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("spillway")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/spillway")))
        .unwrap_or_else(|| PathBuf::from(".cache/spillway"))
}
