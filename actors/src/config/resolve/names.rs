//! Which names stand for something: targets, models, and the reserved words. Rules, aliases and the baseline may use
//! only these.

use crate::{
    config::{
        RuleTarget,
        section::{Placed, Report, did_you_mean},
    },
    domain::{ModelName, TargetName},
};
use std::collections::{BTreeMap, BTreeSet};

/// Clients write these as a model; no model or provider may be called so.
pub(super) const RESERVED: [&str; 2] = ["auto", "local"];

#[derive(Default)]
pub(super) struct Names {
    targets: BTreeSet<String>,
    /// Local target → its model.
    locals: Vec<(TargetName, ModelName)>,
    models: BTreeMap<String, ModelName>,
    /// Names in built-in lists that stand for nothing here.
    dropped: Vec<String>,
}

impl Names {
    /// False, with a fault, when another target has the name or it could not be a metric label and path segment.
    pub(super) fn add_target(&mut self, name: &Placed<String>, report: &Report<'_>) -> bool {
        let text = name.value.as_str();
        let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        let why = if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
            "must be 1 to 64 letters, digits, dots, underscores or hyphens"
        } else if !self.targets.insert(name.value.clone()) {
            "is the name of another target already"
        } else {
            return true;
        };
        report.fault(&name.origin, format!("the name `{text}` {why}"));
        false
    }

    pub(super) fn add_local(&mut self, target: TargetName, model: ModelName) {
        self.locals.push((target, model));
    }

    /// False, with a fault, when the name is taken or malformed.
    pub(super) fn add_model(&mut self, name: &Placed<String>, report: &Report<'_>) -> bool {
        let text = name.value.as_str();
        let taken = self.models.contains_key(text) || self.is_local(text);
        let why = if text.is_empty() || text.len() > 128 || !text.chars().all(|character| character.is_ascii_graphic())
        {
            "must be 1 to 128 visible ASCII characters"
        } else if RESERVED.contains(&text) {
            "is reserved: clients use it to let the router choose"
        } else if taken {
            "is the name of another model or target already"
        } else {
            self.models.insert(name.value.clone(), ModelName::from(text));
            return true;
        };
        report.fault(&name.origin, format!("the model name `{text}` {why}"));
        false
    }

    pub(super) fn is_local(&self, name: &str) -> bool {
        self.locals.iter().any(|(target, model)| target.as_str() == name || model.as_str() == name)
    }

    /// Every target a rule's name stands for; empty when it stands for none. A local model stands for all targets that
    /// serve it.
    pub(super) fn targets_of(&self, name: &str) -> Vec<RuleTarget> {
        if name == "local" {
            return if self.locals.is_empty() { Vec::new() } else { vec![RuleTarget::AnyLocal] };
        }
        if let Some(model) = self.models.get(name) {
            return vec![RuleTarget::Model(model.clone())];
        }
        let by_name = self.locals.iter().filter(|(target, _)| target.as_str() == name);
        let by_model = self.locals.iter().filter(|(target, model)| target.as_str() != name && model.as_str() == name);
        by_name.chain(by_model).map(|(target, _)| RuleTarget::Local(target.clone())).collect()
    }

    pub(super) fn model(&self, name: &str) -> Option<ModelName> {
        self.models.get(name).cloned()
    }

    /// Whether a client could name this as a model.
    pub(super) fn is_choice(&self, name: &str) -> bool {
        RESERVED.contains(&name) || self.models.contains_key(name) || self.is_local(name)
    }

    /// A fault for a name nobody configured.
    pub(super) fn refuse_unknown(&self, path: &str, name: &Placed<String>, report: &Report<'_>) {
        let locals = self.locals.iter().flat_map(|(target, model)| [target.as_str(), model.as_str()]);
        let known: BTreeSet<&str> = locals.chain(self.models.keys().map(String::as_str)).chain(["local"]).collect();
        let hint = did_you_mean(&name.value, known.iter().copied());
        report.fault(&name.origin, format!("`{path}` names `{}`, which is not configured{hint}", name.value));
    }

    /// Notes a name of a built-in list that nobody configured. `local = []` is the operator's own word: no note.
    pub(super) fn drop_built_in(&mut self, name: &str) {
        if name != "local" && !self.dropped.iter().any(|dropped| dropped == name) {
            self.dropped.push(name.to_owned());
        }
    }

    pub(super) fn warn_of_dropped(&self, report: &Report<'_>) {
        if !self.dropped.is_empty() {
            let names = self.dropped.join(", ");
            report.warn(format!("the built-in rules name models that are not configured; they are left out: {names}"));
        }
    }
}
