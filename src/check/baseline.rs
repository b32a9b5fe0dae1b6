//! Whether "saved" can be told: it is measured against a model's price, which has to be there. Pure.

use spillway_actors::config::Config;

/// A warning, where a configuration asks several targets and names none to measure them against.
pub fn saves_nothing(config: &Config) -> Option<String> {
    let is_measured = config.ledger.baseline.is_some() || config.clouds.iter().all(|cloud| cloud.models.is_empty());
    (!is_measured).then(|| {
        "[ledger] baseline_model names no configured cloud model, so nobody knows what was saved; \
         `spillway usage` shows \"-\" there"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_actors::config::{Sources, load};
    use std::{io, path::PathBuf};

    fn warning(file: &str) -> Option<String> {
        let sources = Sources { file: Some((PathBuf::from("my.toml"), file.to_owned())), ..Sources::default() };
        saves_nothing(&load(&sources, &|_| Err(io::Error::other("no file"))).unwrap().0)
    }

    #[test]
    fn a_configuration_without_a_baseline_is_told_that_nothing_is_measured() {
        assert_eq!(warning(""), None, "what is built in names one");
        let told = warning("[ledger]\nbaseline_model = \"\"\n").unwrap();
        assert!(told.contains("baseline_model") && told.contains("saved"), "{told}");
    }
}
