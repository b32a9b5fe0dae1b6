//! The models of one provider: those configured, and those its own list names. Pure.
//!
//! A model found at run time has no price, so only a request that names it gets it. Indices never change hands: a flight
//! may hold one while the list is renewed.

use crate::{
    config::{CloudModel, ModelKind, PrefillStyle},
    domain::{ModelName, Price},
};
use std::{sync::Arc, time::Duration};

/// Models found over the life of one process; what a provider lists beyond is ignored.
pub const MAX_FOUND: usize = 256;
/// A longer id is no model's.
pub const MAX_ID_BYTES: usize = 128;
/// Assumed of a model of which nothing but its name is known.
const CONTEXT_TOKENS: u32 = 131_072;
const TYPICAL_LATENCY: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Configured,
    /// The provider's list names it.
    Found,
}

#[derive(Debug)]
struct Entry {
    model: Arc<CloudModel>,
    source: Source,
    /// In the provider's latest list, or in the configuration in force.
    listed: bool,
}

impl Entry {
    fn configured(model: &CloudModel) -> Self {
        Self { model: Arc::new(model.clone()), source: Source::Configured, listed: true }
    }

    fn is_found(&self) -> bool {
        self.source == Source::Found
    }

    /// What an id of the provider's list means here already.
    fn means(&self, id: &str) -> bool {
        self.model.upstream == id && (self.listed || self.is_found())
    }
}

#[derive(Debug)]
pub struct Models {
    entries: Vec<Entry>,
}

impl Models {
    pub fn new(configured: &[CloudModel]) -> Self {
        Self { entries: configured.iter().map(Entry::configured).collect() }
    }

    /// The configured models as of now. Those left out are not listed any more, but whoever holds their index goes on.
    pub fn configure(&mut self, models: &[CloudModel]) {
        for entry in &mut self.entries {
            let is_configured = |model: &CloudModel| model.name == entry.model.name || entry.means(&model.upstream);
            entry.listed &= entry.is_found() && !models.iter().any(is_configured);
        }
        for model in models {
            let known = self.entries.iter_mut().find(|entry| !entry.is_found() && entry.model.name == model.name);
            match known {
                Some(entry) => *entry = Entry::configured(model),
                None => self.entries.push(Entry::configured(model)),
            }
        }
    }

    pub fn indices(&self) -> std::ops::Range<usize> {
        0..self.entries.len()
    }

    pub fn get(&self, index: usize) -> Option<&Arc<CloudModel>> {
        self.entries.get(index).map(|entry| &entry.model)
    }

    /// Not configured: its price is unknown.
    pub fn is_found(&self, index: usize) -> bool {
        self.entries.get(index).is_none_or(Entry::is_found)
    }

    pub fn listed(&self) -> Vec<(usize, Arc<CloudModel>)> {
        let listed = self.entries.iter().enumerate().filter(|(_, entry)| entry.listed);
        listed.map(|(index, entry)| (index, Arc::clone(&entry.model))).collect()
    }

    /// The provider's list as of now. Names that are `taken` mean something else; ids of configured models are those.
    pub fn learn(&mut self, ids: &[String], taken: &dyn Fn(&str) -> bool) {
        let found = self.entries.iter_mut().filter(|entry| entry.is_found());
        found.for_each(|entry| entry.listed = false);
        for id in ids.iter().filter(|id| is_name(id)) {
            let is_full = self.entries.iter().filter(|entry| entry.is_found()).count() >= MAX_FOUND;
            let is_configured = self.entries.iter().any(|entry| !entry.is_found() && entry.means(id));
            match self.entries.iter_mut().find(|entry| entry.is_found() && entry.means(id)) {
                _ if is_configured => {}
                Some(entry) => entry.listed = !taken(id),
                None if taken(id) || is_full => {}
                None => {
                    let model = Arc::new(found_model(id));
                    self.entries.push(Entry { model, source: Source::Found, listed: true });
                }
            }
        }
    }
}

/// Printable and short: it will stand in answers and URLs.
fn is_name(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID_BYTES && id.chars().all(|c| c.is_ascii_graphic())
}

fn found_model(id: &str) -> CloudModel {
    CloudModel {
        name: ModelName::from(id),
        upstream: id.to_owned(),
        kind: ModelKind::Chat,
        context_tokens: CONTEXT_TOKENS,
        prefill: PrefillStyle::None,
        price: Price::default(),
        price_source: "unknown: found in the provider's list".into(),
        price_as_of: "never".into(),
        typical_latency: TYPICAL_LATENCY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured() -> Vec<CloudModel> {
        vec![CloudModel { name: "ours".into(), ..found_model("theirs") }]
    }

    fn learn(models: &mut Models, ids: &[&str]) {
        let ids: Vec<String> = ids.iter().map(|&id| id.to_owned()).collect();
        models.learn(&ids, &|name| name == "local");
    }

    fn names(models: &Models) -> Vec<(usize, String)> {
        models.listed().into_iter().map(|(index, model)| (index, model.name.to_string())).collect()
    }

    #[test]
    fn found_models_come_after_the_configured_and_keep_their_index() {
        let mut models = Models::new(&configured());
        learn(&mut models, &["theirs", "b", "local", "a", "b"]);
        let both = vec![(0, "ours".to_owned()), (1, "b".to_owned()), (2, "a".to_owned())];
        assert_eq!(names(&models), both);
        assert!(!models.is_found(0) && models.is_found(1));
        learn(&mut models, &["a", "c"]);
        assert_eq!(names(&models), [(0, "ours".to_owned()), (2, "a".to_owned()), (3, "c".to_owned())]);
        assert_eq!(models.get(1).unwrap().name.as_str(), "b", "a flight may still hold its index");
        learn(&mut models, &["b"]);
        assert_eq!(names(&models), [(0, "ours".to_owned()), (1, "b".to_owned())]);
    }

    #[test]
    fn models_of_a_new_configuration_keep_add_and_give_up_places() {
        let mut models = Models::new(&configured());
        learn(&mut models, &["b"]);
        let added = CloudModel { name: "added".into(), ..found_model("b") };
        let dearer = CloudModel { context_tokens: 7, ..configured().remove(0) };
        models.configure(&[dearer.clone(), added.clone()]);
        assert_eq!(names(&models), [(0, "ours".to_owned()), (2, "added".to_owned())], "what was found has a price now");
        assert_eq!(models.get(0).unwrap().context_tokens, 7);
        models.configure(&[added]);
        assert_eq!(names(&models), [(2, "added".to_owned())]);
        assert_eq!(models.get(0).unwrap().name.as_str(), "ours", "a flight may still hold its index");
        learn(&mut models, &["theirs", "b"]);
        assert_eq!(names(&models), [(2, "added".to_owned()), (3, "theirs".to_owned())], "without a price from now on");
        models.configure(&[dearer]);
        assert_eq!(names(&models), [(0, "ours".to_owned())]);
        learn(&mut models, &["theirs", "b"]);
        assert_eq!(names(&models), [(0, "ours".to_owned()), (1, "b".to_owned())]);
    }

    #[test]
    fn what_a_provider_lists_is_bounded_and_printable() {
        let mut models = Models::new(&configured());
        let long = "x".repeat(MAX_ID_BYTES + 1);
        learn(&mut models, &["", "a b", "é", "a\n", &long]);
        assert_eq!(models.listed().len(), 1);
        for round in 0..3 {
            let ids: Vec<String> = (0..400).map(|n| format!("{round}-{n}")).collect();
            models.learn(&ids, &|_| false);
        }
        assert_eq!(models.indices().len(), 1 + MAX_FOUND);
    }
}
