//! `[[cloud.models]]`: what a provider serves, at which price.

use super::{Names, money::price};
use crate::{
    config::{
        CloudModel, ModelKind, PrefillStyle, Wire,
        section::{Report, Section},
    },
    domain::{ModelName, NanoUsd, Price},
};
use std::time::Duration;

const DEFAULT_CONTEXT_TOKENS: u32 = 131_072;
const DEFAULT_EMBEDDING_TOKENS: u32 = 8192;
const DEFAULT_LATENCY: Duration = Duration::from_millis(300);

/// At least one model, or a fault.
pub(super) fn models(
    cloud: &Section<'_>,
    wire: Wire,
    report: &Report<'_>,
    names: &mut Names,
) -> Option<Vec<CloudModel>> {
    let sections = cloud.sections("models");
    if let (true, Some(entry)) = (sections.is_empty(), cloud.entry("models"))
        && entry.node.array().is_some_and(<[_]>::is_empty)
    {
        cloud.refuse("models", &entry.node.origin, "must hold at least one model");
    }
    // Every model is read before the first fault ends the reading.
    sections.into_iter().map(|section| model(section, wire, report, names)).collect::<Vec<_>>().into_iter().collect()
}

fn model(section: Section<'_>, wire: Wire, report: &Report<'_>, names: &mut Names) -> Option<CloudModel> {
    let name = section.text("name").filter(|name| names.add_model(name, report));
    let upstream = section.optional_text("upstream");
    let kind = kind(&section);
    let context_tokens = match section.entry("context_tokens") {
        Some(_) => section.small("context_tokens", 64..=1 << 30),
        None if kind == Some(ModelKind::Embedding) => Some(DEFAULT_EMBEDDING_TOKENS),
        None => Some(DEFAULT_CONTEXT_TOKENS),
    };
    let prefill = prefill(&section);
    if let (Some(ModelKind::Completion), Some(style), Some(entry)) = (kind, prefill, section.entry("prefill_style"))
        && style != PrefillStyle::None
    {
        section.refuse("prefill_style", &entry.node.origin, "is for chats: a model of kind = \"completion\" has none");
    }
    let price = whole_price(&section, kind, wire);
    let price_source = section.optional_text("source");
    let price_as_of = section.optional_text("as_of");
    let typical_latency = match section.entry("typical_latency_ms") {
        Some(_) => section.millis("typical_latency_ms", 1),
        None => Some(DEFAULT_LATENCY),
    };
    section.finish();
    let name = name?.value;
    let stated =
        |text: Option<crate::config::section::Placed<String>>| text.map_or("not stated".into(), |text| text.value);
    Some(CloudModel {
        upstream: upstream?.map(|text| text.value).filter(|text| !text.is_empty()).unwrap_or_else(|| name.clone()),
        name: ModelName::from(name.as_str()),
        kind: kind?,
        context_tokens: context_tokens?,
        prefill: prefill?,
        price: price?,
        price_source: stated(price_source?),
        price_as_of: stated(price_as_of?),
        typical_latency: typical_latency?,
    })
}

fn kind(section: &Section<'_>) -> Option<ModelKind> {
    const WORDS: [(&str, ModelKind); 3] =
        [("chat", ModelKind::Chat), ("completion", ModelKind::Completion), ("embedding", ModelKind::Embedding)];
    match section.entry("kind") {
        Some(_) => section.choice("kind", &WORDS).map(|kind| kind.value),
        None => Some(ModelKind::Chat),
    }
}

pub(super) fn prefill(section: &Section<'_>) -> Option<PrefillStyle> {
    const WORDS: [(&str, PrefillStyle); 3] = [
        ("none", PrefillStyle::None),
        ("assistant", PrefillStyle::Assistant),
        ("deepseek_prefix", PrefillStyle::DeepseekPrefix),
    ];
    match section.entry("prefill_style") {
        Some(_) => section.choice("prefill_style", &WORDS).map(|style| style.value),
        None => Some(PrefillStyle::None),
    }
}

/// Input and output must be stated: a forgotten price would be a free model. Vectors have no output to pay for.
fn whole_price(section: &Section<'_>, kind: Option<ModelKind>, wire: Wire) -> Option<Price> {
    let input = price(section, "input_usd_per_mtok");
    let output = match (kind, section.entry("output_usd_per_mtok")) {
        (Some(ModelKind::Embedding), None) => Some(NanoUsd::ZERO),
        _ => price(section, "output_usd_per_mtok"),
    };
    let cached = match section.entry("cached_usd_per_mtok") {
        Some(_) => price(section, "cached_usd_per_mtok"),
        None => input,
    };
    let written = match section.entry("cache_write_usd_per_mtok") {
        Some(_) => price(section, "cache_write_usd_per_mtok"),
        // What Anthropic asks for a cache of five minutes, the one it makes unless told otherwise.
        None if wire == Wire::Anthropic => input.map(NanoUsd::and_a_quarter),
        None => input,
    };
    Some(Price {
        input_per_mtok: input?,
        cached_per_mtok: cached?,
        written_per_mtok: written?,
        output_per_mtok: output?,
    })
}
