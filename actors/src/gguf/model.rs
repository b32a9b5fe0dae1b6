//! What is kept of a file's metadata: the few facts that somebody asks for, in bounded space.

use super::{GgufError, kinds};
use serde::Serialize;
use std::collections::BTreeMap;

/// Layers of any model; a file that claims more is damaged.
pub(super) const MAX_LAYERS: u32 = 4096;
/// Longest text kept of one value, in bytes.
pub(super) const MAX_TEXT: usize = 4096;

/// Models whose file need not say that each token looks at the whole text.
pub const LOOK_BOTH_WAYS: [&str; 9] = [
    "bert",
    "nomic-bert",
    "nomic-bert-moe",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "neo-bert",
    "eurobert",
    "gemma-embedding",
];

/// How a sequence's embeddings become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    None,
    Mean,
    Cls,
    Last,
    Rank,
}

/// Tokens that mark the parts of a text with a hole (fill in the middle).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Fim {
    pub prefix: Option<u32>,
    pub suffix: Option<u32>,
    pub middle: Option<u32>,
}

impl Fim {
    pub const fn is_whole(&self) -> bool {
        self.prefix.is_some() && self.suffix.is_some() && self.middle.is_some()
    }
}

/// Sums over the tensors of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tensors {
    pub count: u64,
    /// Weights, in bytes.
    pub bytes: u64,
    pub parameters: u64,
    /// Bytes of each layer.
    pub layers: Vec<u64>,
    /// Bytes of the token embedding, which llama.cpp keeps in system memory.
    pub embedding: u64,
    /// Bytes of everything else outside layers: the output projection and its norm.
    pub output: u64,
    /// Tensors of types this version does not know: their size is not in the sums.
    pub of_unknown_type: u64,
}

/// One model file, or all parts of a split one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gguf {
    pub version: u32,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Files the model is split into; 1 = not split.
    pub parts: u32,
    pub architecture: String,
    pub name: Option<String>,
    pub licence: Option<String>,
    /// How most of its weights are stored, e.g. `Q4_K_M`.
    pub file_type: Option<&'static str>,
    /// Tokens it was trained to look back at.
    pub context_length: Option<u32>,
    pub layers: Option<u32>,
    pub embedding_length: Option<u32>,
    pub feed_forward_length: Option<u32>,
    /// Attention heads of each layer, or one number for all.
    pub heads: Vec<u32>,
    /// Heads that keys and values are kept for.
    pub heads_kv: Vec<u32>,
    /// Numbers of one head's key and value, where the file says.
    pub key_length: Option<u32>,
    pub value_length: Option<u32>,
    pub experts: Option<u32>,
    /// Tokens that part of its layers look back at; `None` = all of the context.
    pub sliding_window: Option<u32>,
    pub vocabulary: Option<u32>,
    pub tokenizer: Option<String>,
    pub has_chat_template: bool,
    pub pooling: Option<Pooling>,
    /// Whether tokens look back only, where the file says.
    pub causal: Option<bool>,
    pub fim: Fim,
    pub tensors: Tensors,
}

impl Gguf {
    /// Layers as llama.cpp counts them for the GPU: the output layer is one more.
    pub fn offloadable_layers(&self) -> u32 {
        self.layers.unwrap_or(0).saturating_add(1)
    }

    /// Whether each token looks at the whole text, so that a text is computed in one batch and nothing is written.
    pub fn reads_whole_texts(&self) -> bool {
        self.causal == Some(false) || LOOK_BOTH_WAYS.contains(&self.architecture.as_str())
    }

    /// Computes embeddings rather than text: it says how to pool, or has an encoder's architecture.
    pub fn is_embedder(&self) -> bool {
        let pools = self.pooling.is_some_and(|pooling| !matches!(pooling, Pooling::None | Pooling::Rank));
        pools || self.architecture.contains("bert")
    }
}

/// Values kept while a file is read, by key.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) fim: Fim,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    /// The beginning of a text, at most [`MAX_TEXT`] bytes, and its whole length.
    Text(String, u64),
    /// A list: its length, and its numbers if it holds few whole ones.
    List(u64, Vec<u64>),
}

impl Facts {
    fn text(&self, key: &str) -> Option<String> {
        match self.values.get(key) {
            Some(Value::Text(text, _)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        match self.values.get(key)? {
            Value::Unsigned(number) => Some(*number),
            Value::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.values.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    fn small(&self, key: &str) -> Option<u32> {
        u32::try_from(self.number(key)?).ok()
    }

    /// One number or a list of them.
    fn numbers(&self, key: &str) -> Vec<u32> {
        match self.values.get(key) {
            Some(Value::List(_, numbers)) => numbers.iter().filter_map(|number| u32::try_from(*number).ok()).collect(),
            Some(_) => self.small(key).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn list_length(&self, key: &str) -> Option<u32> {
        match self.values.get(key)? {
            Value::List(length, _) => u32::try_from(*length).ok(),
            _ => None,
        }
    }

    fn fim(&self) -> Fim {
        let id = |new: &str, old: &str, spelled: Option<u32>| {
            let key = |name: &str| self.small(&format!("tokenizer.ggml.{name}_token_id"));
            key(new).or_else(|| key(old)).or(spelled)
        };
        Fim {
            prefix: id("fim_pre", "prefix", self.fim.prefix),
            suffix: id("fim_suf", "suffix", self.fim.suffix),
            middle: id("fim_mid", "middle", self.fim.middle),
        }
    }

    fn pooling(&self, arch: &str) -> Option<Pooling> {
        Some(match self.number(&format!("{arch}.pooling_type"))? {
            0 => Pooling::None,
            1 => Pooling::Mean,
            2 => Pooling::Cls,
            3 => Pooling::Last,
            4 => Pooling::Rank,
            _ => return None,
        })
    }

    /// The number of layers; a claim beyond reason is damage.
    pub(super) fn layers(&self) -> Result<Option<u32>, GgufError> {
        let Some(arch) = self.text("general.architecture") else { return Ok(None) };
        match self.number(&format!("{arch}.block_count")) {
            Some(count) if count > u64::from(MAX_LAYERS) => {
                Err(GgufError::Corrupt(format!("it claims {count} layers, more than {MAX_LAYERS}")))
            }
            count => Ok(count.and_then(|count| u32::try_from(count).ok())),
        }
    }

    /// # Errors
    /// The file does not say which architecture it is, or claims what cannot be.
    pub(super) fn into_model(self, version: u32, bytes: u64, tensors: Tensors) -> Result<Gguf, GgufError> {
        let layers = self.layers()?;
        let split = self.small("split.count").unwrap_or(1).max(1);
        let Some(arch) = self.text("general.architecture") else {
            return Err(GgufError::Corrupt("it does not say its architecture".to_owned()));
        };
        let of = |name: &str| format!("{arch}.{name}");
        let chat_template =
            matches!(self.values.get("tokenizer.chat_template"), Some(Value::Text(_, length)) if *length > 0);
        Ok(Gguf {
            version,
            bytes,
            parts: split,
            name: self.text("general.name"),
            licence: self.text("general.license"),
            file_type: self.small("general.file_type").map(kinds::file_type_name),
            context_length: self.small(&of("context_length")),
            layers,
            embedding_length: self.small(&of("embedding_length")),
            feed_forward_length: self.numbers(&of("feed_forward_length")).into_iter().max(),
            heads: self.numbers(&of("attention.head_count")),
            heads_kv: self.numbers(&of("attention.head_count_kv")),
            key_length: self.small(&of("attention.key_length")),
            value_length: self.small(&of("attention.value_length")),
            experts: self.small(&of("expert_count")).filter(|experts| *experts > 0),
            sliding_window: self.small(&of("attention.sliding_window")).filter(|window| *window > 0),
            vocabulary: self.list_length("tokenizer.ggml.tokens").or_else(|| self.small(&of("vocab_size"))),
            tokenizer: self.text("tokenizer.ggml.model"),
            has_chat_template: chat_template,
            pooling: self.pooling(&arch),
            causal: self.flag(&of("attention.causal")),
            fim: self.fim(),
            architecture: arch,
            tensors,
        })
    }
}
