//! Reading configuration from where the command line says, as often as wanted, and remembering which files it came from.

use spillway_actors::config::{self, Config, ConfigFaults, DemoCloud, Sources, Warning};
use std::{
    cell::RefCell,
    fmt, io,
    path::{Path, PathBuf},
};

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The file itself, or the environment, cannot be read.
    Unreadable(String),
    Faults(ConfigFaults),
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => f.write_str(why),
            Self::Faults(faults) => faults.fmt(f),
        }
    }
}

/// A configuration and what it was read from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Warning>,
}

/// Where configuration comes from.
#[derive(Debug, Clone)]
pub struct Loader {
    file: Option<PathBuf>,
    demo: Option<DemoCloud>,
    need_not_serve: bool,
}

impl Loader {
    pub fn new(file: Option<PathBuf>, demo: Option<DemoCloud>) -> Self {
        Self { file, demo, need_not_serve: false }
    }

    /// For a command that serves nothing: nothing need be able to.
    pub fn for_looking(file: Option<PathBuf>) -> Self {
        Self { file, demo: None, need_not_serve: true }
    }

    /// The user's file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Every file that was looked at, and the configuration or what is wrong with it.
    pub fn load(&self) -> (Vec<PathBuf>, Result<Loaded, LoadError>) {
        let looked_at: RefCell<Vec<PathBuf>> = RefCell::new(self.file.iter().cloned().collect());
        let read = |path: &Path| {
            looked_at.borrow_mut().push(path.to_owned());
            std::fs::read_to_string(path)
        };
        let loaded = self.load_with(&read);
        (looked_at.into_inner(), loaded)
    }

    fn load_with(&self, read: &dyn Fn(&Path) -> io::Result<String>) -> Result<Loaded, LoadError> {
        let unreadable = |path: &Path, error| LoadError::Unreadable(format!("cannot read {}: {error}", path.display()));
        let file = match &self.file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
                Some((path.clone(), text))
            }
        };
        let env = readable_env()?;
        let cache_dir = config::default_cache_dir(&env);
        let sources = Sources {
            file,
            env,
            overrides: Vec::new(),
            cache_dir,
            demo: self.demo.clone(),
            need_not_serve: self.need_not_serve,
        };
        let (config, warnings) = config::load(&sources, &read).map_err(LoadError::Faults)?;
        Ok(Loaded { config, warnings })
    }
}

/// The environment as text. Other programs' oddities are not our business, but ours must not be ignored in silence.
fn readable_env() -> Result<Vec<(String, String)>, LoadError> {
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => env.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with("SPILLWAY") => {
                return Err(LoadError::Unreadable(format!("the value of {name} is not UTF-8")));
            }
            _ => {}
        }
    }
    Ok(env)
}
