//! `[[cloud]]`: providers and their keys. A provider without a key stays configured and takes no traffic. Key texts are
//! never shown: not in a fault, not in a warning.

use super::{Context, Names, models, names::RESERVED};
use crate::{
    config::{
        CloudConfig, CloudTimeouts, DemoCloud, LimitField, LocalConfig, ModelKind, Wire,
        section::{Placed, Report, Section},
    },
    domain::TargetName,
};
use reqwest::Url;
use secrecy::SecretString;
use std::path::Path;

/// Name of a demo's provider.
const SIMULATED: &str = "simulated";
/// Stands for a key where a simulated provider asks for none.
const SIMULATED_KEY: &str = "demo";

pub(super) fn clouds(top: &Section<'_>, context: &Context<'_>, names: &mut Names) -> Vec<CloudConfig> {
    let sections = top.sections("cloud");
    let clouds: Vec<_> = sections.into_iter().filter_map(|section| cloud(section, context, names)).collect();
    match &context.sources.demo {
        Some(demo) => {
            if names.is_local(SIMULATED) {
                context
                    .report
                    .fault_of_whole("a demo's provider is called `simulated`: rename the [[local]] of that name");
            }
            vec![simulated(demo, clouds)]
        }
        None => clouds,
    }
}

/// One simulated provider with the models of all configured ones.
fn simulated(demo: &DemoCloud, clouds: Vec<CloudConfig>) -> CloudConfig {
    let mut models: Vec<_> = clouds.into_iter().flat_map(|cloud| cloud.models).collect();
    for model in &mut models {
        model.upstream = "ok".to_owned();
    }
    CloudConfig {
        name: TargetName::from(SIMULATED),
        base_url: demo.base_url.trim_end_matches('/').to_owned(),
        wire: Wire::OpenAi,
        limit_field: LimitField::MaxTokens,
        keys: vec![SecretString::from(SIMULATED_KEY)],
        key_sources: Vec::new(),
        actors: 4,
        max_concurrency: 64,
        timeouts: CloudTimeouts::default(),
        models,
        warm_up: true,
        discover_models: false,
        simulated: true,
    }
}

fn cloud(section: Section<'_>, context: &Context<'_>, names: &mut Names) -> Option<CloudConfig> {
    let name = section
        .text("name")
        .filter(|name| may_be_called(name, context.report) && names.add_target(name, context.report));
    let simulated = section.flag("simulated");
    let base_url = base_url(&section, context.report);
    let wire = section.choice("wire", &[("openai", Wire::OpenAi), ("anthropic", Wire::Anthropic)]);
    let limit_field = limit_field(&section);
    let keys = keys(&section, context, simulated == Some(true));
    let actors = section.size("actors", 1..=64);
    let max_concurrency = section.size("max_concurrency", 1..=10_000);
    let timeouts = timeouts(&section);
    let models = models::models(&section, wire.as_ref().map_or(Wire::OpenAi, |wire| wire.value), context.report, names);
    let word = models.iter().flatten().find_map(|model| match model.kind {
        ModelKind::Chat => None,
        ModelKind::Completion => Some("completion"),
        ModelKind::Embedding => Some("embedding"),
    });
    if let (Some(Placed { value: Wire::Anthropic, origin }), Some(word)) = (&wire, word) {
        let message = format!("= \"anthropic\" has no such endpoint: a model of kind = \"{word}\" needs \"openai\"");
        section.refuse("wire", origin, message);
    }
    let (warm_up, discover_models) = (section.flag("warm_up"), section.flag("discover_models"));
    section.finish();
    let (keys, key_sources) = keys?;
    let base_url = base_url?;
    Some(CloudConfig {
        name: TargetName::from(name?.value.as_str()),
        limit_field: limit_field?.unwrap_or_else(|| usual_limit_field(&base_url)),
        base_url,
        wire: wire?.value,
        keys,
        key_sources,
        actors: actors?,
        max_concurrency: max_concurrency?,
        timeouts: timeouts?,
        models: models?,
        warm_up: warm_up?,
        discover_models: discover_models?,
        simulated: simulated?,
    })
}

/// `None`: whatever is usual there.
fn limit_field(section: &Section<'_>) -> Option<Option<LimitField>> {
    let named = |field: LimitField| (field.name(), Some(field));
    let words = [("auto", None), named(LimitField::MaxTokens), named(LimitField::MaxCompletionTokens)];
    section.choice("output_limit_field", &words).map(|choice| choice.value)
}

/// OpenAI's own hosts, those of a region among them, want the new name.
fn usual_limit_field(base_url: &str) -> LimitField {
    const OPENAI: &str = "api.openai.com";
    let url = Url::parse(base_url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let is_openai = host == OPENAI || host.strip_suffix(OPENAI).is_some_and(|region| region.ends_with('.'));
    if is_openai { LimitField::MaxCompletionTokens } else { LimitField::MaxTokens }
}

fn may_be_called(name: &Placed<String>, report: &Report<'_>) -> bool {
    let reserved = RESERVED.contains(&name.value.as_str());
    if reserved {
        report.fault(&name.origin, format!("a provider cannot be called `{}`", name.value));
    }
    !reserved
}

fn timeouts(section: &Section<'_>) -> Option<CloudTimeouts> {
    let connect = section.millis("connect_timeout_ms", 1);
    let first_byte = section.millis("first_byte_timeout_ms", 1);
    let first_token = section.millis("first_token_timeout_ms", 0);
    let idle = section.millis("idle_timeout_ms", 1);
    let first_token = first_token.map(|limit| Some(limit).filter(|limit| !limit.is_zero()));
    Some(CloudTimeouts { connect: connect?, first_byte: first_byte?, first_token: first_token?, idle: idle? })
}

/// As written, without its trailing slash.
pub(super) fn base_url(section: &Section<'_>, report: &Report<'_>) -> Option<String> {
    const KEY: &str = "base_url";
    let text = section.text(KEY)?;
    let Some(url) =
        Url::parse(&text.value).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    else {
        section.refuse_unseen(KEY, &text.origin, "must be an address such as https://api.example.com/v1");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        section.refuse_unseen(KEY, &text.origin, "must hold no user or password: keys come from api_keys_env");
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() || text.value.contains(char::is_whitespace) {
        section.refuse_unseen(KEY, &text.origin, "must end with its path: no `?`, `#` or space");
        return None;
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        let host = url.host_str().unwrap_or_default();
        report.warn(format!("`{}` is plain http: keys and prompts travel readable to {host}", section.path_of(KEY)));
    }
    Some(text.value.trim_end_matches('/').to_owned())
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Keys, and the names of where they are looked for.
fn keys(section: &Section<'_>, context: &Context<'_>, simulated: bool) -> Option<(Vec<SecretString>, Vec<String>)> {
    let variables = match section.entry("api_keys_env") {
        Some(_) => section.texts("api_keys_env")?,
        None => Vec::new(),
    };
    let file = section.text("api_key_file")?;
    if context.sources.demo.is_some() {
        return Some((Vec::new(), Vec::new()));
    }
    if variables.is_empty() && file.value.is_empty() && !simulated {
        let message = format!("`{}` or `api_key_file` is needed", section.path_of("api_keys_env"));
        context.report.fault(section.origin(), message);
        return None;
    }
    let mut keys = Vec::new();
    for variable in &variables {
        if let Some(key) = context.sources.variable(&variable.value) {
            keys.push(checked(key, || section.refuse("api_keys_env", &variable.origin, unsendable(&variable.value)))?);
        }
    }
    if !file.value.is_empty() {
        keys.extend(keys_in_file(section, context, &file)?);
    }
    if simulated && keys.is_empty() {
        keys.push(SecretString::from(SIMULATED_KEY));
    }
    Some((keys, variables.into_iter().map(|variable| variable.value).collect()))
}

fn keys_in_file(section: &Section<'_>, context: &Context<'_>, file: &Placed<String>) -> Option<Vec<SecretString>> {
    const KEY: &str = "api_key_file";
    let text = (context.read)(Path::new(&file.value));
    if let Err(error) = &text {
        section.refuse(KEY, &file.origin, format_args!("cannot be read: {error}"));
    }
    let text = text.ok()?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys = lines.map(|line| checked(line, || section.refuse(KEY, &file.origin, unsendable(&file.value))));
    keys.collect()
}

/// A key that can be sent as a header; otherwise `refuse` is called.
pub(super) fn checked(key: &str, refuse: impl FnOnce()) -> Option<SecretString> {
    if key.chars().all(|character| character.is_ascii_graphic()) {
        return Some(SecretString::from(key));
    }
    refuse();
    None
}

pub(super) fn unsendable(place: &str) -> String {
    format!("finds a key in {place} that no HTTP header can carry: it must be visible ASCII without spaces")
}

/// The configuration as a whole: something must be able to serve, and whoever expected the cloud hears why it is quiet.
pub(super) fn judge(locals: &[LocalConfig], clouds: &[CloudConfig], report: &Report<'_>) {
    let unusable = clouds.iter().filter(|cloud| !cloud.is_usable());
    let any_usable = clouds.iter().any(CloudConfig::is_usable);
    if locals.is_empty() && !any_usable {
        let missing: Vec<&str> = unusable.flat_map(|cloud| &cloud.key_sources).map(String::as_str).collect();
        let hint = if missing.is_empty() { String::new() } else { format!("; not set: {}", missing.join(", ")) };
        report.fault_of_whole(format!("nothing can serve: there is no [[local]] and no [[cloud]] with a key{hint}"));
        return;
    }
    for cloud in unusable {
        let sources = cloud.key_sources.join(", ");
        let missing = match cloud.key_sources.len() {
            0 => format!("the api_key_file of `{}` holds no key", cloud.name),
            1 => format!("{sources} is not set"),
            _ => format!("none of {sources} is set"),
        };
        let then =
            if any_usable { format!("`{}` takes no traffic", cloud.name) } else { "serving every tier locally".into() };
        report.warn(format!("{missing}: {then}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_is_told_the_limit_by_its_new_name() {
        for (address, field) in [
            ("https://api.openai.com/v1", LimitField::MaxCompletionTokens),
            ("https://eu.api.openai.com/v1", LimitField::MaxCompletionTokens),
            ("https://notapi.openai.com/v1", LimitField::MaxTokens),
            ("https://api.openai.com.example.org/v1", LimitField::MaxTokens),
            ("https://example.org/api.openai.com", LimitField::MaxTokens),
            ("https://api.holysheep.ai/v1", LimitField::MaxTokens),
        ] {
            assert_eq!(usual_limit_field(address), field, "{address}");
        }
    }
}
