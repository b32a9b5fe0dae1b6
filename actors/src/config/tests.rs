//! Configuration from text to resolved types: what the defaults mean, how layers combine, and what each fault says.

mod faults;
mod layers;
mod otel;
mod property;

use super::*;
use std::{io, path::Path};

/// Sources with a cache directory, a key, and this file (none when empty).
fn sources(file: &str) -> Sources {
    Sources {
        file: (!file.is_empty()).then(|| (PathBuf::from("my.toml"), file.to_owned())),
        env: vec![("HOLYSHEEP_API_KEY".into(), "secret-key".into())],
        cache_dir: PathBuf::from("/cache"),
        ..Sources::default()
    }
}

fn with_env(file: &str, name: &str, value: &str) -> Sources {
    let mut sources = sources(file);
    sources.env.push((name.into(), value.into()));
    sources
}

fn no_files(path: &Path) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no {}", path.display())))
}

fn loaded(sources: &Sources) -> (Config, Vec<String>) {
    match load(sources, &no_files) {
        Ok((config, warnings)) => (config, warnings.into_iter().map(|warning| warning.0).collect()),
        Err(faults) => panic!("{faults}"),
    }
}

/// "line:column message" of every fault.
fn faults(sources: &Sources) -> Vec<String> {
    let faults = load(sources, &no_files).expect_err("a fault was expected");
    faults.faults().iter().map(|fault| format!("{}:{} {}", fault.line, fault.column, fault.message)).collect()
}
