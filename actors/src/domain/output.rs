//! How an answer must look, as far as a local target has to see to it. A provider reads the client's own body instead.

use serde_json::Value;
use std::sync::Arc;

/// Everything about the answer but its length and its sampling.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OutputWish {
    /// The likelihood of every token, with this many alternatives (at most 20).
    pub logprobs: Option<u8>,
    /// Token ids and what is added to their logits, -100 to 100.
    pub logit_bias: Vec<(i32, f32)>,
    pub format: Format,
    /// Tools that may be called; `None` also where they are offered but must not be.
    pub tools: Option<Arc<ToolWish>>,
    /// Why no local target can do all of this.
    pub unmet: Option<Unmet>,
}

/// What the text of an answer must be.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Format {
    #[default]
    Text,
    /// Any JSON object.
    Object,
    /// A value that validates.
    Schema(Arc<Value>),
}

/// Functions that the model may ask its client to call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolWish {
    /// At least one.
    pub tools: Vec<Tool>,
    pub choice: ToolChoice,
    /// `parallel_tool_calls`, if given.
    pub parallel: Option<bool>,
    /// They came as `functions`, so calls go back as `function_call`.
    pub legacy: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: String,
    /// The function's object as the client sent it: name, description, parameters.
    pub function: Value,
    /// The schema of the arguments; `None` = there are none.
    pub parameters: Option<Value>,
    /// Arguments must validate, not only be of the right types.
    pub strict: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// Some tool must be called.
    Required,
    /// This one must be called, once.
    Named(String),
}

/// What a local target cannot do, at which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    pub param: String,
    /// For the client.
    pub message: String,
}

impl ToolWish {
    /// Tools that may be called under the choice.
    pub fn callable(&self) -> impl Iterator<Item = &Tool> {
        let only = match &self.choice {
            ToolChoice::Named(name) => Some(name),
            ToolChoice::Auto | ToolChoice::Required => None,
        };
        self.tools.iter().filter(move |tool| only.is_none_or(|name| tool.name == *name))
    }
}
