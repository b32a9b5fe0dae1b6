//! `models show`: everything that is known of one model, from the catalogue and from its file.

use super::{Named, USAGE, bar, find, used_by};
use crate::cli::{self, say};
use serde_json::json;
use spillway_actors::{
    config::{Config, LoadOptions},
    gguf::{Gguf, inspect},
    gpu::memory::{Estimate, Shape, Share, estimate},
};
use std::{path::Path, process::ExitCode};

pub(super) fn run(config: &Config, name: &str, json: bool) -> ExitCode {
    let is_file = Path::new(name).is_file();
    let named = match find(config, name) {
        Ok(named) => named,
        Err(_) if is_file => super::own_file(Path::new(name)),
        Err(why) => {
            cli::failed(&why);
            return ExitCode::from(USAGE);
        }
    };
    let read = named.kept.size().map(|_| inspect(&named.kept.path));
    let shape = shape(config, &named);
    if json {
        say(&as_json(config, &named, read.as_ref(), &shape));
    } else {
        as_text(config, &named, read.as_ref(), &shape).iter().for_each(|line| say(line));
    }
    if matches!(read, Some(Err(_))) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// As the target that uses it loads it, else as the first target would.
fn shape(config: &Config, named: &Named) -> Shape {
    let user = config.locals.iter().find(|local| local.model_path == named.kept.path);
    let like = user.or_else(|| config.locals.first());
    let options = like.map_or_else(LoadOptions::default, |local| local.options.clone());
    Shape {
        context_tokens: like.map_or(8192, |local| local.context_tokens),
        parallel: like.map_or(8, |local| local.parallel),
        max_request_tokens: like.and_then(|local| local.max_request_tokens),
        frugal: false,
        batch_tokens: options.batch_tokens,
        ubatch_tokens: options.ubatch_tokens,
        embedding_tokens: like.map_or(Some(2048), |local| local.embedding_tokens),
        kv_type_k: options.kv_type_k,
        kv_type_v: options.kv_type_v,
        gpu_layers: like.and_then(|local| local.gpu_layers).unwrap_or(u32::MAX),
    }
}

fn as_json(
    config: &Config,
    named: &Named,
    read: Option<&Result<Gguf, spillway_actors::gguf::GgufError>>,
    shape: &Shape,
) -> String {
    let model = read.and_then(|read| read.as_ref().ok());
    let value = json!({
        "name": named.name,
        "title": named.model.title,
        "path": named.kept.path,
        "present": named.kept.size().is_some(),
        "partial_bytes": named.kept.partial(),
        "sources": named.model.sources,
        "sha256": named.model.sha256.clone().or_else(|| named.kept.noted_digest()),
        "bytes": named.kept.size().or(named.model.bytes),
        "context_tokens": named.model.context_tokens,
        "capabilities": named.model.capabilities,
        "smaller": named.model.smaller,
        "used_by": used_by(config, &named.kept.path),
        "file": model,
        "fault": read.and_then(|read| read.as_ref().err()).map(ToString::to_string),
        "memory": model.map(|model| json!({
            "shape": shape,
            "on_gpu": estimate(model, shape),
            "on_cpu": estimate(model, &Shape { gpu_layers: 0, ..*shape }),
        })),
    });
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

fn as_text(
    config: &Config,
    named: &Named,
    read: Option<&Result<Gguf, spillway_actors::gguf::GgufError>>,
    shape: &Shape,
) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", named.name, named.model.title)];
    lines.push(format!("  file      {}", named.kept.path.display()));
    for source in &named.model.sources {
        lines.push(format!("  source    {source}"));
    }
    if let Some(digest) = named.model.sha256.clone().or_else(|| named.kept.noted_digest()) {
        lines.push(format!("  sha256    {digest}"));
    }
    let users = used_by(config, &named.kept.path);
    if !users.is_empty() {
        lines.push(format!("  used by   {}", users.join(", ")));
    }
    match (read, named.kept.partial()) {
        (Some(Ok(model)), _) => {
            lines.extend(summary_lines(model));
            lines.extend(memory_lines(model, shape, false));
        }
        (Some(Err(error)), _) => lines.push(format!("  the file {error}")),
        (None, Some(bytes)) => lines.push(format!("  unfinished: {} are here; pull it to go on", bar::bytes(bytes))),
        (None, None) => lines.push(format!("  not here: `spillway models pull {}` gets it", named.name)),
    }
    lines
}

/// What a file says of its model, a line for each fact that it states.
pub(crate) fn summary_lines(model: &Gguf) -> Vec<String> {
    let number = |count: Option<u32>| count.map(|count| count.to_string());
    let heads = |heads: &[u32]| heads.iter().max().map(u32::to_string);
    let yes = |holds: bool| Some(if holds { "yes" } else { "no" }.to_owned());
    let attention = heads(&model.heads).zip(heads(&model.heads_kv).or_else(|| heads(&model.heads)));
    let facts = [
        ("model", model.name.clone()),
        ("kind", Some(format!("{}, {}", model.architecture, model.file_type.unwrap_or("of an unknown quantisation")))),
        ("size", Some(format!("{}, {} parameters", bar::bytes(model.bytes), count(model.tensors.parameters)))),
        ("licence", model.licence.clone()),
        ("context", number(model.context_length).map(|tokens| format!("{tokens} tokens"))),
        ("layers", number(model.layers)),
        ("heads", attention.map(|(heads, kept)| format!("{heads}, keys and values of {kept} kept"))),
        ("experts", number(model.experts)),
        ("window", number(model.sliding_window).map(|tokens| format!("{tokens} tokens in some layers"))),
        (
            "tokens",
            number(model.vocabulary).map(|count| format!("{count}, {}", model.tokenizer.as_deref().unwrap_or("?"))),
        ),
        ("template", yes(model.has_chat_template)),
        ("fim", yes(model.fim.is_whole())),
        ("pooling", model.pooling.map(|pooling| format!("{pooling:?}").to_ascii_lowercase())),
    ];
    let told = facts.into_iter().filter_map(|(name, fact)| Some(format!("  {name:<9} {}", printable(&fact?))));
    told.collect()
}

/// What a file says, without what would command a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// `135 million`, as model cards count.
fn count(number: u64) -> String {
    match number {
        0..1_000_000 => number.to_string(),
        1_000_000..1_000_000_000 => format!("{:.0} million", number as f64 / 1e6),
        _ => format!("{:.1} billion", number as f64 / 1e9),
    }
}

/// What it takes on a GPU and on the CPU, or on the CPU alone where no GPU is.
pub(crate) fn memory_lines(model: &Gguf, shape: &Shape, on_cpu_only: bool) -> Vec<String> {
    let on_gpu = estimate(model, shape);
    let on_cpu = estimate(model, &Shape { gpu_layers: 0, ..*shape });
    let line = |place: &str, estimate: &Estimate, share: Share| {
        let vectors = match estimate.embeddings {
            0 => String::new(),
            more => format!("; {} more once a vector is asked for", bar::bytes(more)),
        };
        format!(
            "  {place:<9} about {} ({} weights, {} KV cache for {} tokens, {} working, {} tokens at once{vectors})",
            bar::bytes(share.total()),
            bar::bytes(share.weights),
            bar::bytes(share.kv),
            estimate.pool_tokens,
            bar::bytes(share.compute),
            shape.at_once(estimate.layers_on_gpu > 0),
        )
    };
    let cpu = line("on CPU", &on_cpu, on_cpu.host);
    if on_cpu_only || on_gpu.layers_on_gpu == 0 {
        return vec![cpu];
    }
    let layers = format!(", {} of {} layers", on_gpu.layers_on_gpu, on_gpu.layers + 1);
    vec![line("on GPU", &on_gpu, on_gpu.gpu) + &layers, cpu]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cannot_command_the_terminal_it_is_shown_on() {
        assert_eq!(
            printable("Tiny \u{1b}]0;owned\u{7} \u{9b}2J é\n"),
            "Tiny \u{fffd}]0;owned\u{fffd} \u{fffd}2J é\u{fffd}"
        );
    }
}
