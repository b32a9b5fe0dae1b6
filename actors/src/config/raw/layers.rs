//! The four layers, laid over each other: built-in < file < environment < flags.

use super::{Layer, Node, Origin, Texts, Value, assign, parse};
use crate::config::sources::{BUILT_IN, Sources};
use std::collections::BTreeMap;

/// Environment variables with this prefix are configuration.
const PREFIX: &str = "SPILLWAY__";

/// The merged tree, and what could not be read or set.
pub(in crate::config) struct Merged {
    pub(in crate::config) root: Node,
    /// Text that is not TOML: the tree lacks parts, so its meaning cannot be judged.
    pub(in crate::config) syntax: Vec<(Origin, String)>,
    /// Variables and flags that fit nowhere; the tree is whole without them.
    pub(in crate::config) misplaced: Vec<(Origin, String)>,
}

pub(in crate::config) fn merged(texts: &mut Texts, sources: &Sources) -> Merged {
    let (built_in, mut syntax) = parse(texts, "built-in configuration".to_owned(), Layer::BuiltIn, BUILT_IN);
    let mut root = built_in.clone();
    if let Some((path, text)) = &sources.file {
        let (file, file_faults) = parse(texts, path.display().to_string(), Layer::File, text);
        syntax.extend(file_faults);
        root = file;
        root.fill_from(&built_in);
    }
    fill_entries(&mut root, &built_in);
    let mut misplaced = Vec::new();
    // In the order of names, so that a whole list is set before one of its entries.
    let variables: BTreeMap<&String, &String> = sources.env.iter().map(|(name, value)| (name, value)).collect();
    for (name, value) in variables {
        misplaced.extend(set_from_environment(texts, &mut root, name, value));
    }
    for (path, value) in &sources.overrides {
        misplaced.extend(set_from_flag(texts, &mut root, path, value));
    }
    // Again, for lists that the environment or a flag has set whole.
    fill_entries(&mut root, &built_in);
    if sources.demo.is_some() {
        lend_models(&mut root, &built_in);
    }
    Merged { root, syntax, misplaced }
}

/// Entries of a user's `[[local]]` and `[[cloud]]` lists take what they leave out from the first built-in entry, so that
/// the documented file is the only place of defaults. A provider's identity is never taken: its key must not go
/// elsewhere.
fn fill_entries(root: &mut Node, built_in: &Node) {
    fill_list(root, built_in, "local", &[]);
    fill_list(root, built_in, "cloud", &["name", "base_url", "api_keys_env", "models"]);
}

fn fill_list(root: &mut Node, built_in: &Node, key: &str, own: &[&str]) {
    let Some(mut template) = list(built_in, key).and_then(|items| items.first()).cloned() else { return };
    if let Value::Table(table) = &mut template.value {
        table.retain(|key, _| !own.contains(&key.as_str()));
    }
    let Value::Table(table) = &mut root.value else { return };
    let Some(Value::Array(items)) = table.get_mut(key).map(|entry| &mut entry.node.value) else { return };
    for item in items {
        item.fill_from(&template);
    }
}

fn list<'n>(root: &'n Node, key: &str) -> Option<&'n [Node]> {
    root.table()?.get(key)?.node.array()
}

/// A demo simulates the configured models; where there is no provider it simulates the built-in one's.
fn lend_models(root: &mut Node, built_in: &Node) {
    let none = list(root, "cloud").is_some_and(<[Node]>::is_empty);
    if let (true, Value::Table(table), Some(lent)) = (none, &mut root.value, built_in.table()) {
        table.extend(lent.get("cloud").map(|entry| ("cloud".to_owned(), entry.clone())));
    }
}

fn set_from_environment(texts: &mut Texts, root: &mut Node, name: &str, value: &str) -> Option<(Origin, String)> {
    let Some(path) = name.strip_prefix(PREFIX).map(str::to_lowercase) else { return misspelt(texts, name) };
    let segments: Vec<&str> = path.split("__").collect();
    let source = texts.add(format!("environment variable {name}"), Layer::Environment, value.to_owned());
    let node = assign::value_from_text(source, value);
    set(root, &segments, node)
}

/// One underscore too few is no other program's variable. The value is not shown: nobody knows what it is.
fn misspelt(texts: &mut Texts, name: &str) -> Option<(Origin, String)> {
    let rest = name.strip_prefix(PREFIX.trim_end_matches('_'))?.strip_prefix('_')?;
    if !rest.contains("__") {
        return None;
    }
    let source = texts.add(format!("environment variable {name}"), Layer::Environment, String::new());
    Some((
        assign::value_from_text(source, "").origin,
        format!("this sets nothing: two underscores belong in front, {PREFIX}{rest}"),
    ))
}

fn set_from_flag(texts: &mut Texts, root: &mut Node, path: &str, value: &toml::Value) -> Option<(Origin, String)> {
    let segments: Vec<&str> = path.split('.').collect();
    let text = value.to_string();
    let source = texts.add(format!("flag {path}"), Layer::Flag, text.clone());
    let mut node = assign::value_from_text(source, &text);
    // Unlike a variable, a flag's value has a type already.
    node.text = None;
    set(root, &segments, node)
}

fn set(root: &mut Node, segments: &[&str], node: Node) -> Option<(Origin, String)> {
    let origin = node.origin.clone();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Some((origin, "the name has an empty part: it must be SPILLWAY__SECTION__KEY".to_owned()));
    }
    assign::assign(root, segments, node).err().map(|reason| (origin, reason))
}
