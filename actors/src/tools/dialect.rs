//! How a model writes that it calls a tool.

use serde::{Deserialize, Serialize};

/// A way to write calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// Ours, for models that know none: `{"tool_call": {"name": …, "arguments": {…}}}` or `{"response": "…"}`.
    #[default]
    Generic,
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, among text (Hermes, Qwen and many more).
    Hermes,
    /// `{"name": …, "parameters": {…}}` instead of text, maybe after `<|python_tag|>` (Llama 3).
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]` (Mistral).
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}` (Mistral since the middle of 2025).
    MistralArgs,
}

/// Texts that stand for the structure of calls. Many vocabularies have tokens for them, which are text of a call and no
/// text of an answer.
pub const MARKERS: [&str; 6] = ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"];

impl Dialect {
    /// The dialect that a chat template writes. The template must be known to show tools at all.
    pub fn of_template(source: &str) -> Self {
        let has = |text: &str| source.contains(text);
        if has("[TOOL_CALLS]") {
            if has("[ARGS]") { Self::MistralArgs } else { Self::Mistral }
        } else if has("<tool_call>") && !has("<function=") && !has("<arg_key>") {
            Self::Hermes
        } else if has("<|python_tag|>") || has("<|start_header_id|>ipython<|end_header_id|>") {
            Self::Llama
        } else {
            // Shown or not: what it would write is not known here.
            Self::Generic
        }
    }

    /// What begins a call in the middle of text.
    pub(super) const fn trigger(self) -> Option<&'static str> {
        match self {
            Self::Generic => None,
            Self::Hermes => Some("<tool_call>"),
            Self::Llama => Some("<|python_tag|>"),
            Self::Mistral | Self::MistralArgs => Some("[TOOL_CALLS]"),
        }
    }
}

/// What a model's chat template can say, as trying it out has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatTraits {
    /// [`Dialect::Generic`] also where tools cannot be said.
    pub dialect: Dialect,
    /// It has a place for system messages.
    pub system: bool,
    /// It knows the role `developer`.
    pub developer: bool,
}

impl Default for ChatTraits {
    fn default() -> Self {
        Self { dialect: Dialect::Generic, system: true, developer: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_shows_its_dialect() {
        for (source, dialect) in [
            ("{{ '<tool_call>' }}", Dialect::Hermes),
            ("{{ '<tool_call>\\n<function=' }}", Dialect::Generic),
            ("{{ '<|start_header_id|>ipython<|end_header_id|>' }}", Dialect::Llama),
            ("{{ '[TOOL_CALLS]' }}", Dialect::Mistral),
            ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", Dialect::MistralArgs),
            ("{{ tools | tojson }}", Dialect::Generic),
        ] {
            assert_eq!(Dialect::of_template(source), dialect, "{source}");
        }
    }
}
