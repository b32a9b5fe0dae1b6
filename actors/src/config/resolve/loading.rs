//! The part of `[[local]]` that says how its model is loaded.

use crate::{
    config::{
        LoadOptions,
        raw::{Entry, Node, Value},
        section::Section,
    },
    domain::{MAX_OVERRIDE_BYTES, OverrideValue, Rope, RopeScaling},
    gguf::KvType,
};

const MAX_BATCH: u32 = 1 << 16;
/// A micro-batch of fewer tokens than this makes reading a prompt a crawl.
const LEAST_BATCH: u32 = 32;
const MAX_OVERRIDES: usize = 32;

pub(super) fn options(section: &Section<'_>) -> Option<LoadOptions> {
    let batch_tokens = section.small_or("batch_tokens", "auto", LEAST_BATCH..=MAX_BATCH);
    let ubatch_tokens = section.small_or("ubatch_tokens", "auto", LEAST_BATCH..=MAX_BATCH);
    let kv_type_k = kv_type(section, "kv_type_k");
    let kv_type_v = kv_type(section, "kv_type_v");
    let rope = section.section("rope").and_then(rope);
    let overrides = overrides(section);
    if let (Some(Some(batch)), Some(Some(ubatch)), Some(entry)) =
        (batch_tokens, ubatch_tokens, section.entry("ubatch_tokens"))
        && ubatch > batch
    {
        section.refuse("ubatch_tokens", &entry.node.origin, format_args!("is above batch_tokens = {batch}"));
    }
    Some(LoadOptions {
        batch_tokens: batch_tokens?,
        ubatch_tokens: ubatch_tokens?.unwrap_or(LoadOptions::default().ubatch_tokens),
        kv_type_k: kv_type_k?,
        kv_type_v: kv_type_v?,
        rope: rope?,
        overrides: overrides?,
    })
}

fn kv_type(section: &Section<'_>, key: &'static str) -> Option<KvType> {
    section.choice(key, &KvType::ALL).map(|kind| kind.value)
}

fn rope(section: Section<'_>) -> Option<Rope> {
    let freq_base = section.decimal_or("freq_base", "model", 1.0..=1.0e12);
    let freq_scale = section.decimal_or("freq_scale", "model", 0.000_1..=1000.0);
    let words = [
        ("model", None),
        ("none", Some(RopeScaling::None)),
        ("linear", Some(RopeScaling::Linear)),
        ("yarn", Some(RopeScaling::Yarn)),
    ];
    let scaling = section.choice("scaling", &words);
    section.finish();
    Some(Rope { freq_base: freq_base?, freq_scale: freq_scale?, scaling: scaling?.value })
}

fn overrides(section: &Section<'_>) -> Option<Vec<(String, OverrideValue)>> {
    const KEY: &str = "overrides";
    let node = section.need(KEY)?;
    let Some(table) = node.table() else {
        section.refuse(KEY, &node.origin, "must be a table, such as { \"llama.context_length\" = 8192 }");
        return None;
    };
    if table.len() > MAX_OVERRIDES {
        section.refuse(KEY, &node.origin, format_args!("must hold at most {MAX_OVERRIDES} facts"));
        return None;
    }
    let read = |(key, entry): (&String, &Entry)| {
        let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
        if key.is_empty() || key.len() > MAX_OVERRIDE_BYTES || !visible {
            let why = format!("has a key that is not 1 to {MAX_OVERRIDE_BYTES} visible ASCII characters");
            section.refuse(KEY, &entry.key, why);
            return None;
        }
        let value = value(&entry.node);
        if value.is_none() {
            let why = format!("must hold true, false, numbers or texts of at most {MAX_OVERRIDE_BYTES} bytes");
            section.refuse(KEY, &entry.node.origin, why);
        }
        Some((key.clone(), value?))
    };
    table.iter().map(read).collect::<Vec<_>>().into_iter().collect()
}

fn value(node: &Node) -> Option<OverrideValue> {
    match &node.value {
        Value::Bool(value) => Some(OverrideValue::Bool(*value)),
        Value::Integer(value) => value.map(OverrideValue::Int),
        Value::Float(digits) => digits.parse().ok().filter(|value: &f64| value.is_finite()).map(OverrideValue::Float),
        Value::Text(text) if text.len() <= MAX_OVERRIDE_BYTES && !text.contains('\0') => {
            Some(OverrideValue::Text(text.clone()))
        }
        _ => None,
    }
}
