//! Tokens that stand for structure and have no text otherwise: of tool calls, and of conversations altogether.

use crate::backend::Token;
use llama_cpp_2::{model::LlamaModel, token::LlamaToken};
use spillway_actors::tools::MARKERS;

pub(super) fn of(model: &LlamaModel) -> Vec<Token> {
    let vocab = model.vocab();
    let token = |marker: &&str| match vocab.tokenize(marker.as_bytes(), false, true).as_slice() {
        [only] if vocab.token_to_piece(*only, false, None).is_empty() => Some(only.0),
        _ => None,
    };
    MARKERS.iter().filter_map(token).collect()
}

/// What every control token is written as.
pub(super) fn control_words(model: &LlamaModel) -> Vec<String> {
    let vocab = model.vocab();
    let silent =
        (0..model.n_vocab()).map(LlamaToken).filter(|token| vocab.token_to_piece(*token, false, None).is_empty());
    silent.filter_map(|token| String::from_utf8(vocab.token_to_piece(token, true, None)).ok()).collect()
}
