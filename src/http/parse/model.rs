//! The `model` field against configuration.

use super::fields::Fields;
use spillway_actors::{
    cloud::discovery::MAX_ID_BYTES,
    config::{Config, UnknownModels},
    domain::{ErrorKind, GatewayError, ModelChoice, ModelName, Origin},
};

pub(super) fn choice(body: Fields<'_>, config: &Config) -> Result<ModelChoice, GatewayError> {
    let Some(name) = body.text("model")? else { return Ok(ModelChoice::Auto) };
    given(name, config).or_else(|| stand_in(config)).ok_or_else(|| not_found(name))
}

/// As [`choice`], but nothing stands in for a name that is not known.
pub(super) fn exactly(body: Fields<'_>, config: &Config) -> Result<ModelChoice, GatewayError> {
    let Some(name) = body.text("model")? else { return Ok(ModelChoice::Auto) };
    given(name, config).ok_or_else(|| not_found(name))
}

fn given(name: &str, config: &Config) -> Option<ModelChoice> {
    let alias = || config.router.aliases.get(name).and_then(|meant| known(meant, config));
    known(name, config).or_else(alias).or_else(|| perhaps_found(name, config))
}

/// What an unknown name means, where it means anything.
pub(in crate::http) fn stand_in(config: &Config) -> Option<ModelChoice> {
    (config.router.unknown_models == UnknownModels::Auto).then_some(ModelChoice::Auto)
}

/// Providers whose list is read may have it: that is looked up later, because it changes while the gateway runs.
fn perhaps_found(name: &str, config: &Config) -> Option<ModelChoice> {
    let lists = config.clouds.iter().any(|cloud| cloud.discover_models && cloud.is_usable());
    (lists && name.len() <= MAX_ID_BYTES).then(|| ModelChoice::Named(ModelName::from(name)))
}

/// Whether configuration alone says what the name means.
pub(in crate::http) fn is_configured(name: &str, config: &Config) -> bool {
    known(name, config).is_some()
}

/// A reserved word, a configured cloud model, or the name or model of a local target.
fn known(name: &str, config: &Config) -> Option<ModelChoice> {
    match name {
        "auto" => return Some(ModelChoice::Auto),
        "local" => return Some(ModelChoice::Local),
        _ => {}
    }
    let mut models = config.clouds.iter().flat_map(|cloud| &cloud.models).map(|model| model.name.as_str());
    let mut locals = config.locals.iter().flat_map(|local| [local.name.as_str(), local.model.as_str()]);
    (models.any(|model| model == name) || locals.any(|local| local == name))
        .then(|| ModelChoice::Named(ModelName::from(name)))
}

/// The error for a model nobody configured.
pub(in crate::http) fn not_found(name: &str) -> GatewayError {
    const SHOWN: usize = 128;
    let shown: String = name.chars().filter(|character| !character.is_control()).take(SHOWN).collect();
    let message = format!(
        "The model '{shown}' does not exist here. GET /v1/models lists those that do; 'auto' lets the gateway choose."
    );
    let mut error = GatewayError::new(Origin::Client, ErrorKind::ModelNotFound, message);
    error.param = Some("model".to_owned());
    error
}
