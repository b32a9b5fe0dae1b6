//! `[models.NAME]`: the operator's own models, beside the built-in catalogue.

use super::Context;
use crate::config::{
    Capability, Catalogue, CatalogueModel,
    section::{Placed, Report, Section, did_you_mean},
    source::{BadSource, Source},
};
use std::path::Path;

/// Built-in names and the operator's; an own entry takes the place of a built-in one of its name.
pub(super) fn catalogue(top: &Section<'_>, context: &Context<'_>) -> Catalogue {
    let mut catalogue = Catalogue::built_in();
    let Some(models) = top.section("models") else { return catalogue };
    let (mut smaller, mut own) = (Vec::new(), Vec::new());
    for (name, section) in models.into_named() {
        let origin = name.origin.clone();
        let Some(name) = name_of(name, context.report) else { continue };
        if let Some((model, named)) = model(section) {
            smaller.extend(named);
            own.push(Placed { value: name.clone(), origin });
            catalogue.insert(name, model);
        }
    }
    own.iter().for_each(|name| judge_file(name, &catalogue, context.report));
    for name in smaller.iter().filter(|name| catalogue.get(&name.value).is_none()) {
        let hint = did_you_mean(&name.value, catalogue.names());
        context.report.fault(&name.origin, format!("`smaller` names `{}`, which is no model here{hint}", name.value));
    }
    catalogue
}

/// Two models in one file: whichever is fetched last would be served for both.
fn judge_file(name: &Placed<String>, catalogue: &Catalogue, report: &Report<'_>) {
    let Some(model) = catalogue.get(&name.value) else { return };
    let is_rival = |(other, theirs): &(&str, &CatalogueModel)| {
        *other != name.value && theirs.file == model.file && !theirs.is_same_file(model)
    };
    if let Some((other, _)) = catalogue.iter().find(is_rival) {
        let message =
            format!("the file of `{}` is that of `{other}`, another model: give it a `file` of its own", name.value);
        report.fault(&name.origin, message);
    }
}

fn name_of(name: Placed<String>, report: &Report<'_>) -> Option<String> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let text = &name.value;
    if !text.is_empty()
        && text.len() <= 64
        && text.chars().all(allowed)
        && !super::names::RESERVED.contains(&text.as_str())
    {
        return Some(name.value);
    }
    let why = "must be 1 to 64 letters, digits, dots, underscores or hyphens, and not auto or local";
    report.fault(&name.origin, format!("the model name `{text}` {why}"));
    None
}

/// The entry, and the names it refers to.
fn model(section: Section<'_>) -> Option<(CatalogueModel, Vec<Placed<String>>)> {
    let sources = sources(&section);
    let title = section.optional_text("title");
    let file = file(&section);
    let sha256 = digest(&section);
    let bytes = section.optional("bytes", |section| section.integer("bytes", 1..=1 << 50));
    let context_tokens = section.optional("context_tokens", |section| section.small("context_tokens", 1..=1 << 30));
    let capabilities = section.optional("capabilities", capabilities);
    let smaller = section.optional("smaller", |section| section.texts("smaller"));
    section.finish();
    let sources = sources?;
    let from = CatalogueModel::from_source(sources.first()?.clone());
    let smaller = smaller?.unwrap_or_default();
    let model = CatalogueModel {
        title: title?.map_or(from.title, |title| title.value),
        file: file?.unwrap_or(from.file),
        sources,
        sha256: sha256?,
        bytes: bytes?,
        context_tokens: context_tokens?,
        capabilities: capabilities?.unwrap_or_default(),
        smaller: smaller.iter().map(|name| name.value.clone()).collect(),
    };
    Some((model, smaller))
}

fn sources(section: &Section<'_>) -> Option<Vec<Source>> {
    const KEY: &str = "sources";
    let texts = section.texts(KEY)?;
    if texts.is_empty()
        && let Some(entry) = section.entry(KEY)
    {
        section.refuse(KEY, &entry.node.origin, "must name at least one source");
    }
    let parse = |text: &Placed<String>| {
        let source = text.value.parse();
        if let Err(BadSource) = source {
            section.refuse(KEY, &text.origin, BadSource);
        }
        source.ok()
    };
    texts.iter().map(parse).collect::<Vec<_>>().into_iter().collect()
}

/// A name inside the models folder, with no way out of it.
fn file(section: &Section<'_>) -> Option<Option<String>> {
    let Some(file) = section.optional_text("file")? else { return Some(None) };
    let inside = file.value.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    let gguf = Path::new(&file.value).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if inside && gguf && file.value.len() <= 512 {
        return Some(Some(file.value));
    }
    section.refuse("file", &file.origin, "must be the name of a .gguf file under the models folder");
    None
}

fn digest(section: &Section<'_>) -> Option<Option<String>> {
    let Some(digest) = section.optional_text("sha256")? else { return Some(None) };
    if digest.value.len() == 64 && digest.value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(Some(digest.value.to_ascii_lowercase()));
    }
    section.refuse("sha256", &digest.origin, "must be 64 hexadecimal digits");
    None
}

fn capabilities(section: &Section<'_>) -> Option<Vec<Capability>> {
    const KEY: &str = "capabilities";
    let known = |text: &Placed<String>| {
        let found = Capability::WORDS.iter().find(|(word, _)| *word == text.value).map(|(_, capability)| *capability);
        if found.is_none() {
            let words: Vec<&str> = Capability::WORDS.iter().map(|(word, _)| *word).collect();
            section.refuse(KEY, &text.origin, format_args!("must hold some of {}", words.join(", ")));
        }
        found
    };
    section.texts(KEY)?.iter().map(known).collect::<Vec<_>>().into_iter().collect()
}
