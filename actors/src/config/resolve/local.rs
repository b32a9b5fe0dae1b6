//! `[[local]]`: one engine process each, or a server at an address. Says where the model file should be, not whether it is
//! there: a missing file is a target that is down, not a faulty configuration.

mod server;

use super::{Context, Names, loading, names::RESERVED};
use crate::{
    config::{
        Catalogue, CatalogueModel, LocalConfig, LocalDefaults, LocalServer, Place, Source,
        raw::Value,
        section::{Placed, Section, as_text, did_you_mean},
    },
    domain::{ModelName, Simulation, TargetName},
    gpu::frame::Sampling,
};
use std::path::{Path, PathBuf};

const MAX_TOKENS: u32 = 1 << 24;

pub(super) fn locals(
    top: &Section<'_>,
    context: &Context<'_>,
    catalogue: &Catalogue,
    names: &mut Names,
) -> Vec<LocalConfig> {
    top.sections("local").into_iter().filter_map(|section| local(section, context, catalogue, names)).collect()
}

fn local(section: Section<'_>, context: &Context<'_>, catalogue: &Catalogue, names: &mut Names) -> Option<LocalConfig> {
    let name = section.text("name").filter(|name| names.add_target(name, context.report));
    let engine = section.choice("engine", &[("llama", false), ("http", true)]);
    let is_http = engine.as_ref().is_some_and(|engine| engine.value);
    let model = if is_http { server::model(&section, context) } else { model(&section, context, catalogue) };
    let server = server::server(&section, context, is_http);
    let engine_path = section.text("engine_path");
    let gpu = gpu(&section);
    let health_gpu = health_gpu(&section);
    let gpu_layers = section.small_or("gpu_layers", "auto", 0..=10_000);
    let context_tokens = section.small("context_tokens", 64..=MAX_TOKENS);
    let max_request_tokens = section.small_or("max_request_tokens", "all", 16..=MAX_TOKENS);
    let parallel = section.small("parallel", 1..=256);
    let threads = section.small_or("threads", "auto", 1..=1024);
    let use_mmap = section.flag("use_mmap");
    let use_mlock = section.flag("use_mlock");
    let embedding_tokens = embedding_tokens(&section, server.as_ref().and_then(Option::as_ref));
    let options = loading::options(&section);
    let defaults = section.section("defaults").and_then(defaults);
    check_pool(&section, context_tokens, max_request_tokens.flatten());
    section.finish();
    engine?;
    let Model { name: model, path: model_path, simulation, smaller: smaller_models, pull, place: model_place } = model?;
    let name = TargetName::from(name?.value.as_str());
    names.add_local(name.clone(), model.clone());
    Some(LocalConfig {
        name,
        model,
        model_path,
        simulation,
        server: server?,
        engine_path: Some(engine_path?.value).filter(|path| !path.is_empty()).map(PathBuf::from),
        gpu: gpu?,
        health_gpu: health_gpu?,
        gpu_layers: gpu_layers?,
        context_tokens: context_tokens?,
        max_request_tokens: max_request_tokens?,
        parallel: parallel?,
        threads: threads?,
        use_mmap: use_mmap?,
        use_mlock: use_mlock?,
        embedding_tokens: embedding_tokens?,
        options: options?,
        smaller_models,
        pull,
        model_place,
        defaults: defaults?,
    })
}

/// `Some(None)` = no vectors. Of a server its `abilities` must say that it makes some.
fn embedding_tokens(section: &Section<'_>, server: Option<&LocalServer>) -> Option<Option<u32>> {
    let wanted =
        section.flag("embeddings").map(|wanted| wanted && server.is_none_or(|server| server.offers.embeddings));
    let tokens = section.small("embedding_tokens", 16..=MAX_TOKENS);
    Some(Some(tokens?).filter(|_| wanted == Some(true))).filter(|_| wanted.is_some())
}

fn check_pool(section: &Section<'_>, context_tokens: Option<u32>, max_request_tokens: Option<u32>) {
    if let (Some(pool), Some(request), Some(entry)) =
        (context_tokens, max_request_tokens, section.entry("max_request_tokens"))
        && request > pool
    {
        let why = format!("is larger than the whole pool (context_tokens = {pool})");
        section.refuse("max_request_tokens", &entry.node.origin, why);
    }
}

/// What `model` stands for.
struct Model {
    name: ModelName,
    path: PathBuf,
    simulation: Option<Simulation>,
    smaller: Vec<PathBuf>,
    /// What `spillway models pull` gets it by.
    pull: Option<String>,
    place: Place,
}

/// A catalogue name, an `hf:` source, or a file of the operator's own.
fn model(section: &Section<'_>, context: &Context<'_>, catalogue: &Catalogue) -> Option<Model> {
    let text = section.text("model")?;
    let cache = &context.sources.cache_dir;
    let place = Place::at(context.report.texts, &text.origin);
    if let Some(model) = catalogue.get(&text.value) {
        let (path, smaller) = (model.path(cache), catalogue.smaller_files(model, cache));
        let (name, pull) = (ModelName::from(text.value.as_str()), Some(text.value));
        return Some(Model { name, path, simulation: None, smaller, pull, place });
    }
    if Simulation::is_meant_by(&text.value) {
        return simulated(section, &text, place);
    }
    if text.value.starts_with("hf:") {
        return from_hub(section, &text, cache, place);
    }
    if !has_extension(&text.value) {
        let known: Vec<&str> = catalogue.names().collect();
        let hint = did_you_mean(&text.value, known.iter().copied());
        let why =
            format!("must be the path of a .gguf file, hf:OWNER/REPO/FILE.gguf, or one of {}{hint}", known.join(", "));
        section.refuse("model", &text.origin, why);
        return None;
    }
    let name = free_name(section, &text)?;
    Some(Model { name, path: PathBuf::from(text.value), simulation: None, smaller: Vec::new(), pull: None, place })
}

fn simulated(section: &Section<'_>, text: &Placed<String>, place: Place) -> Option<Model> {
    match text.value.parse() {
        Ok(simulation) => Some(Model {
            name: ModelName::from(Simulation::MODEL),
            path: PathBuf::from(&text.value),
            simulation: Some(simulation),
            smaller: Vec::new(),
            pull: None,
            place,
        }),
        Err(why) => {
            section.refuse("model", &text.origin, format_args!("is no simulation: {why}"));
            None
        }
    }
}

/// Who looks at what is served must not take a simulation for a model.
pub(super) fn judge_simulated(locals: &[LocalConfig], chaos: bool, context: &Context<'_>) {
    for local in locals.iter().filter(|local| local.simulation.is_some()) {
        let name = &local.name;
        if chaos {
            context.report.warn(format!("the engine of `{name}` is SIMULATED: it writes numbered words, no answers"));
        } else {
            let what = format!("the engine of `{name}` is simulated: that is for [chaos] enabled = true only");
            context.report.add(local.model_place.fault(what));
        }
    }
}

fn from_hub(section: &Section<'_>, text: &Placed<String>, cache: &Path, place: Place) -> Option<Model> {
    let source = text.value.parse::<Source>();
    let Ok(source) = source else {
        section.refuse(
            "model",
            &text.origin,
            "must be written hf:OWNER/REPO/FILE.gguf or hf:OWNER/REPO@REVISION/FILE.gguf",
        );
        return None;
    };
    let name = free_name(section, text)?;
    let path = CatalogueModel::from_source(source).path(cache);
    Some(Model { name, path, simulation: None, smaller: Vec::new(), pull: Some(text.value.clone()), place })
}

/// The name a file gives its model, if clients may use it.
fn free_name(section: &Section<'_>, text: &Placed<String>) -> Option<ModelName> {
    let name = name_of(Path::new(&text.value));
    if RESERVED.contains(&name.as_str()) {
        let why = format_args!("would be called `{name}`, which is reserved: rename the file");
        section.refuse("model", &text.origin, why);
        return None;
    }
    Some(ModelName::from(name.as_str()))
}

fn has_extension(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The file's stem, with what a model name cannot hold replaced by hyphens.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let allowed = |character: char| if character.is_ascii_graphic() { character } else { '-' };
    stem.chars().map(allowed).take(128).collect()
}

/// `Some(None)` = auto.
fn gpu(section: &Section<'_>) -> Option<Option<String>> {
    let node = section.need("gpu")?;
    let text = match node.value {
        Value::Integer(Some(index)) => Some(index.to_string()),
        _ => as_text(node),
    };
    match text.as_deref() {
        Some("auto") => Some(None),
        Some(text) if text == "cpu" || is_device(text) => Some(Some(text.to_owned())),
        _ => {
            section.refuse("gpu", &node.origin, "must be auto, cpu, or the index or UUID of a device");
            None
        }
    }
}

/// `Some(None)` = the device it runs on.
fn health_gpu(section: &Section<'_>) -> Option<Option<String>> {
    let node = section.need("health_gpu")?;
    let text = match node.value {
        Value::Integer(Some(index)) => Some(index.to_string()),
        _ => as_text(node),
    };
    match text {
        Some(text) if text.is_empty() => Some(None),
        Some(text) if is_device(&text) => Some(Some(text)),
        _ => {
            section.refuse("health_gpu", &node.origin, "must be empty, or the index or UUID of a device");
            None
        }
    }
}

fn is_device(text: &str) -> bool {
    let is_index = text.len() <= 4 && text.chars().all(|character| character.is_ascii_digit());
    // NVIDIA's and AMD's: "GPU-" and 36 characters, or 16.
    let is_uuid = text.len() >= 20 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-/".contains(c));
    !text.is_empty() && (is_index || is_uuid)
}

fn defaults(section: Section<'_>) -> Option<LocalDefaults> {
    let temperature = section.decimal("temperature", 0.0..=5.0);
    let top_p = section.decimal("top_p", 0.0..=1.0);
    let top_k = section.small("top_k", 0..=1_000_000);
    let min_p = section.decimal("min_p", 0.0..=1.0);
    let repeat_penalty = section.decimal("repeat_penalty", 0.1..=5.0);
    let max_tokens = section.small("max_tokens", 1..=MAX_TOKENS);
    let max_output_tokens = section.small("max_output_tokens", 1..=MAX_TOKENS);
    let completion_stop = stops(&section);
    if let (Some(most), Some(usual), Some(entry)) = (max_output_tokens, max_tokens, section.entry("max_tokens"))
        && usual > most
    {
        let why = format!("is above max_output_tokens = {most}");
        section.refuse("max_tokens", &entry.node.origin, why);
    }
    section.finish();
    Some(LocalDefaults {
        sampling: Sampling {
            temperature: temperature?,
            top_p: top_p?,
            top_k: i32::try_from(top_k?).ok()?,
            min_p: min_p?,
            repeat_penalty: repeat_penalty?,
            ..Sampling::default()
        },
        max_tokens: max_tokens?,
        max_output_tokens: max_output_tokens?,
        completion_stop: completion_stop?,
    })
}

fn stops(section: &Section<'_>) -> Option<Vec<String>> {
    const KEY: &str = "completion_stop";
    let stops = section.texts(KEY)?;
    for stop in stops.iter().filter(|stop| stop.value.is_empty()) {
        section.refuse(KEY, &stop.origin, "must not hold an empty string: it would end every answer at once");
    }
    if let (true, Some(entry)) = (stops.len() > 16, section.entry(KEY)) {
        section.refuse(KEY, &entry.node.origin, "must hold at most 16 strings");
    }
    Some(stops.into_iter().map(|stop| stop.value).collect())
}
