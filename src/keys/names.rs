//! The models that a wished-for key may use, held against configuration: an alias is stored as what it means now, and a name
//! that nothing here has is a slip.

use spillway_actors::{
    config::Config,
    keys::{KeyWish, WishFault},
};

/// # Errors
/// A name that means nothing here.
pub(crate) fn resolved(mut wish: KeyWish, config: &Config) -> Result<KeyWish, WishFault> {
    let Some(models) = wish.models.take() else { return Ok(wish) };
    let meant: Result<Vec<String>, WishFault> = models.into_iter().map(|name| meaning(name, config)).collect();
    wish.models = Some(meant?);
    Ok(wish)
}

fn meaning(name: String, config: &Config) -> Result<String, WishFault> {
    let name = config.router.aliases.get(&name).cloned().unwrap_or(name);
    let mut providers = config.clouds.iter();
    let is_known = config.names().contains(&name) || providers.any(|cloud| cloud.name.as_str() == name);
    // What a provider lists is not known here.
    if is_known || config.clouds.iter().any(|cloud| cloud.discover_models) {
        return Ok(name);
    }
    let shown: String = name.chars().filter(|character| !character.is_control()).take(64).collect();
    Err(WishFault { field: "models", why: format!("names '{shown}', which no model and no target here is called") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_actors::config::{Sources, load};
    use std::{io, path::PathBuf};

    fn models(names: &[&str]) -> Result<Vec<String>, WishFault> {
        let file = "[router.aliases]\nfast = \"local\"\nany = \"auto\"\n".to_owned();
        let sources = Sources { file: Some((PathBuf::from("my.toml"), file)), ..Sources::default() };
        let config = load(&sources, &|_| Err(io::Error::other("no file"))).unwrap().0;
        let models = Some(names.iter().map(|name| (*name).to_owned()).collect());
        Ok(resolved(KeyWish { models, ..KeyWish::default() }, &config)?.models.unwrap())
    }

    #[test]
    fn targets_models_and_aliases_are_known_by_name() {
        let known = models(&["local", "smollm2-135m", "holysheep", "gpt-4.1", "fast", "any"]).unwrap();
        assert_eq!(known, ["local", "smollm2-135m", "holysheep", "gpt-4.1", "local", "auto"]);
        let fault = models(&["gpt-4.1", "gpt-41"]).unwrap_err();
        assert_eq!((fault.field, fault.why.contains("'gpt-41'")), ("models", true));
    }
}
