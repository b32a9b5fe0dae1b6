//! The model files that a configuration names: a damaged one is a fault with the place where it is named; a missing one is a
//! warning, because it may still be fetched. Reads their descriptions, not their weights.

use spillway_actors::{
    config::{Config, Fault, LocalConfig},
    gguf::{GgufError, inspect},
};

#[derive(Debug, Default)]
pub struct ModelFiles {
    pub damaged: Vec<Fault>,
    pub missing: Vec<Fault>,
}

pub fn models(config: &Config) -> ModelFiles {
    let mut files = ModelFiles::default();
    // A server has its model where it is, and a simulation has none.
    for local in config.locals.iter().filter(|local| local.server.is_none() && local.simulation.is_none()) {
        if let Err(error) = inspect(&local.model_path) {
            let fault = local.model_place.fault(message(local, &error));
            let list = if error.is_damage() { &mut files.damaged } else { &mut files.missing };
            list.push(fault);
        }
    }
    files
}

fn message(local: &LocalConfig, error: &GgufError) -> String {
    let remedy = match &local.pull {
        Some(name) if !error.is_damage() => format!("; `spillway models pull {name}` gets it"),
        _ => String::new(),
    };
    format!("the model file of `{}`, {}, {error}{remedy}", local.name, local.model_path.display())
}
