//! `engine = "http"`: a local target that is a server somebody else started. Says where it is, what it can do, and whether
//! it is near enough for what must stay local.

use super::{
    super::{
        Context,
        cloud::{base_url, checked, is_loopback, unsendable},
        models::prefill,
    },
    Model,
};
use crate::{
    config::{LocalServer, LocalServerTimeouts, Place, section::Section},
    domain::{ModelName, Needs, Premises},
};
use reqwest::Url;
use secrecy::SecretString;
use std::path::PathBuf;

/// A word of `abilities`, and the need that it meets.
type Ability = (&'static str, fn(&mut Needs) -> &mut bool);

const ABILITIES: [Ability; 9] = [
    ("tools", |needs| &mut needs.tools),
    ("response_format", |needs| &mut needs.response_format),
    ("images", |needs| &mut needs.images),
    ("audio", |needs| &mut needs.audio),
    ("logprobs", |needs| &mut needs.logprobs),
    ("logit_bias", |needs| &mut needs.logit_bias),
    ("n", |needs| &mut needs.several_choices),
    ("embeddings", |needs| &mut needs.embeddings),
    ("dimensions", |needs| &mut needs.dimensions),
];

/// `Some(None)`: the entry is no server. All keys are read either way, so that none is unknown.
pub(super) fn server(section: &Section<'_>, context: &Context<'_>, is_http: bool) -> Option<Option<LocalServer>> {
    let address = section.text("base_url")?;
    if !is_http && !address.value.is_empty() {
        section.refuse("base_url", &address.origin, "is for engine = \"http\"; our own engine has no address");
    }
    let base_url = if is_http { base_url(section, context.report) } else { Some(String::new()) };
    let upstream = section.text("upstream");
    let key = key(section, context);
    let vouched = section.flag("is_local");
    let (prefill, offers) = (prefill(section), offers(section));
    let first_token = section.millis("first_token_timeout_ms", 1);
    let idle = section.millis("idle_timeout_ms", 1);
    let base_url = base_url?;
    let is_here = Url::parse(&base_url).is_ok_and(|url| is_loopback(&url));
    let server = LocalServer {
        upstream: Some(upstream?.value).filter(|name| !name.is_empty()),
        key: key?,
        premises: if is_here || vouched? { Premises::Own } else { Premises::Anywhere },
        prefill: prefill?,
        offers: offers?,
        timeouts: LocalServerTimeouts { first_token: first_token?, idle: idle? },
        base_url,
    };
    Some(is_http.then_some(server))
}

/// A server's model is called what its operator calls it, and has no file here.
pub(super) fn model(section: &Section<'_>, context: &Context<'_>) -> Option<Model> {
    let name = section.text("model")?;
    if !context.report.texts.is_users(&name.origin) {
        section.refuse_whole("model", "must be named: clients ask for the server's model by it");
        return None;
    }
    if name.value.is_empty() || name.value.len() > 128 || !name.value.chars().all(|c| c.is_ascii_graphic()) {
        section.refuse("model", &name.origin, "must be 1 to 128 visible ASCII characters");
        return None;
    }
    if super::RESERVED.contains(&name.value.as_str()) {
        section.refuse("model", &name.origin, format_args!("cannot be `{}`, which is reserved", name.value));
        return None;
    }
    let place = Place::at(context.report.texts, &name.origin);
    let name = ModelName::from(name.value.as_str());
    Some(Model { name, path: PathBuf::new(), simulation: None, smaller: Vec::new(), pull: None, place })
}

/// `Some(None)`: it needs no key, or the variable is not set, which the server will say better.
fn key(section: &Section<'_>, context: &Context<'_>) -> Option<Option<SecretString>> {
    const KEY: &str = "api_key_env";
    let variable = section.text(KEY)?;
    if variable.value.is_empty() {
        return Some(None);
    }
    let Some(key) = context.sources.variable(&variable.value) else {
        context.report.warn(format!(
            "{} is not set: `{}` is asked without a key",
            variable.value,
            section.path_of(KEY)
        ));
        return Some(None);
    };
    checked(key, || section.refuse(KEY, &variable.origin, unsendable(&variable.value))).map(Some)
}

fn offers(section: &Section<'_>) -> Option<Needs> {
    const KEY: &str = "abilities";
    let mut offers = Needs::NONE;
    for word in section.texts(KEY)? {
        match ABILITIES.iter().find(|(known, _)| *known == word.value) {
            Some((_, need)) => *need(&mut offers) = true,
            None => {
                let known: Vec<&str> = ABILITIES.iter().map(|(known, _)| *known).collect();
                section.refuse(KEY, &word.origin, format_args!("knows no `{}`: {}", word.value, known.join(", ")));
            }
        }
    }
    Some(offers)
}
