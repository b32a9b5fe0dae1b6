//! `[keys]`: where API keys are kept and what their digests are keyed with.

use super::Context;
use crate::config::{
    KeysConfig, PepperSource,
    section::{Placed, Section},
};
use secrecy::SecretString;
use std::path::PathBuf;

/// Fewer characters are no secret.
const MIN_PEPPER: usize = 32;

pub(super) fn keys(section: Section<'_>, context: &Context<'_>) -> Option<KeysConfig> {
    let file = section.text("file");
    let pepper_file = section.text("pepper_file");
    let pepper_env = section.text("pepper_env");
    if let Some(file) = file.as_ref().filter(|file| file.value.is_empty()) {
        section.refuse("file", &file.origin, "must be the path of a file");
    }
    let given = pepper_env.as_ref().map(|name| given(&section, context, name));
    section.finish();
    let (file, pepper_file) = (PathBuf::from(file?.value), pepper_file?.value);
    let pepper = match given?? {
        Some(text) => PepperSource::Text(text),
        None if pepper_file.is_empty() => PepperSource::File(file.with_added_extension("pepper")),
        None => PepperSource::File(pepper_file.into()),
    };
    Some(KeysConfig { file, pepper })
}

/// The pepper in the named variable; `Some(None)` = the variable is not set.
fn given(section: &Section<'_>, context: &Context<'_>, name: &Placed<String>) -> Option<Option<SecretString>> {
    let Some(text) = context.sources.variable(&name.value) else { return Some(None) };
    if text.len() < MIN_PEPPER || !text.chars().all(|character| character.is_ascii_graphic()) {
        let why = format!("names a variable that must hold at least {MIN_PEPPER} visible ASCII characters");
        section.refuse("pepper_env", &name.origin, why);
        return None;
    }
    Some(Some(SecretString::from(text)))
}
