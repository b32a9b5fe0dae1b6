//! Single values from the environment and from flags, set into a tree by their dotted path.

use super::{Entry, Node, Origin, Planting, Value};
use toml::de::DeValue;

/// A value from one text: TOML if it reads as TOML, else the text itself as a string.
pub(super) fn value_from_text(source: usize, text: &str) -> Node {
    let whole = Origin { source, span: 0..text.len() };
    let mut too_deep = Vec::new();
    let parsed = DeValue::parse(text).ok().map(|value| Planting { source, too_deep: &mut too_deep }.node(&value, 0));
    let value = match parsed {
        Some(node) if too_deep.is_empty() => node.value,
        _ => Value::Text(text.to_owned()),
    };
    Node { value, origin: whole, text: Some(text.to_owned()) }
}

/// Sets `node` at `path` below `root`: names go into tables (made when absent), numbers into lists (which must reach so
/// far already). The error says which segment does not fit.
pub(super) fn assign(root: &mut Node, path: &[&str], node: Node) -> Result<(), String> {
    let Some((last, parents)) = path.split_last() else { return Err("an empty name sets nothing".to_owned()) };
    let mut at = root;
    for (depth, segment) in parents.iter().enumerate() {
        at = descend(at, segment, &node.origin).map_err(|reason| explain(path, depth, &reason))?;
    }
    let explained = |reason: String| explain(path, parents.len(), &reason);
    match &mut at.value {
        Value::Table(table) => {
            table.insert((*last).to_owned(), Entry { key: key_of(&node.origin), node });
            Ok(())
        }
        Value::Array(items) => {
            let slot = element(items, last).map_err(explained)?;
            *slot = node;
            Ok(())
        }
        _ => Err(explained("it is a single value, not a table or list".to_owned())),
    }
}

fn descend<'n>(at: &'n mut Node, segment: &str, origin: &Origin) -> Result<&'n mut Node, String> {
    match &mut at.value {
        Value::Table(table) => {
            let entry = table
                .entry(segment.to_owned())
                .or_insert_with(|| Entry { key: key_of(origin), node: Node::empty_table(origin.clone()) });
            Ok(&mut entry.node)
        }
        Value::Array(items) => element(items, segment),
        _ => Err("it is a single value, not a table or list".to_owned()),
    }
}

/// The key is the variable's or flag's name; the text holds only its value, which may be a secret.
fn key_of(value: &Origin) -> Origin {
    Origin { source: value.source, span: 0..0 }
}

fn element<'n>(items: &'n mut [Node], segment: &str) -> Result<&'n mut Node, String> {
    let length = items.len();
    let index: usize =
        segment.parse().map_err(|_| format!("it is a list: a number from 0 must follow, not `{segment}`"))?;
    items.get_mut(index).ok_or_else(|| format!("it has {length} entries, so there is no number {index}"))
}

fn explain(path: &[&str], depth: usize, reason: &str) -> String {
    let name = path.get(..depth).unwrap_or_default().join(".");
    if name.is_empty() { reason.to_owned() } else { format!("`{name}` cannot take this: {reason}") }
}
