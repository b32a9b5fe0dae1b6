//! What a provider is given to go on with an answer that another target began. Pure.
//!
//! A model whose configuration names no prefill style cannot become a [`Continuation`], so it is never asked.

use crate::{
    config::PrefillStyle,
    domain::{ChatRequest, Input},
};
use serde_json::{Map, Value};

/// The beginning of an answer, and how the model wants to hear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation<'a> {
    sent_text: &'a str,
    style: PrefillStyle,
}

impl<'a> Continuation<'a> {
    /// `None` for a model that continues nothing, and for an answer that has not begun.
    pub fn new(sent_text: &'a str, style: PrefillStyle) -> Option<Self> {
        (style != PrefillStyle::None && !sent_text.is_empty()).then_some(Self { sent_text, style })
    }

    /// Exactly what the client has.
    pub const fn sent_text(self) -> &'a str {
        self.sent_text
    }

    pub const fn style(self) -> PrefillStyle {
        self.style
    }

    /// The last message of a request to an OpenAI-compatible provider.
    pub(super) fn message(self) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert("content".into(), self.sent_text.into());
        if self.style == PrefillStyle::DeepseekPrefix {
            message.insert("prefix".into(), true.into());
        }
        message.into()
    }
}

/// Whether an answer to this request can be continued from its text alone: one choice of plain text, after a prompt that
/// does not end with a beginning of the client's own.
pub fn is_continuable(request: &ChatRequest) -> bool {
    let ends_open = match &request.input {
        Input::Messages(messages) => messages.last().is_none_or(|last| last.role == "assistant"),
        Input::Text(_) => false,
        Input::Tokens(_) | Input::Several(_) => true,
    };
    // Text before the answer, or after it, is not the answer's to repeat.
    let set =
        |field: &str| request.body.get(field).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
    !ends_open && !request.needs.any() && !set("suffix") && !set("echo")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Message, Needs};
    use serde_json::json;

    fn chat(roles: &[&str]) -> ChatRequest {
        let message = |role: &&str| Message { role: (*role).to_owned(), content: "a".into(), raw: Map::new() };
        ChatRequest { input: Input::Messages(roles.iter().map(message).collect()), ..ChatRequest::plain("") }
    }

    #[test]
    fn a_model_without_a_prefill_style_cannot_be_asked_to_continue() {
        assert_eq!(Continuation::new("so far", PrefillStyle::None), None);
        assert_eq!(Continuation::new("", PrefillStyle::Assistant), None);
        assert!(Continuation::new("so far", PrefillStyle::Assistant).is_some());
    }

    #[test]
    fn only_plain_text_of_one_choice_is_continued() {
        assert!(is_continuable(&ChatRequest::plain("once")));
        assert!(is_continuable(&chat(&["system", "user"])));
        assert!(!is_continuable(&chat(&["user", "assistant"])), "the client began the answer itself");
        assert!(!is_continuable(&ChatRequest { input: Input::Tokens(vec![1]), ..ChatRequest::plain("") }));
        let none = Needs::default();
        for needs in [
            Needs { tools: true, ..none },
            Needs { response_format: true, ..none },
            Needs { logprobs: true, ..none },
            Needs { several_choices: true, ..none },
        ] {
            assert!(!is_continuable(&ChatRequest { needs, ..chat(&["user"]) }), "{needs:?}");
        }
        for body in [json!({"suffix": "end"}), json!({"echo": true})] {
            let Value::Object(body) = body else { panic!("an object") };
            assert!(!is_continuable(&ChatRequest { body, ..ChatRequest::plain("once") }));
        }
    }
}
