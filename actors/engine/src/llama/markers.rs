//! Tokens that stand for the structure of tool calls and have no text otherwise.

use crate::backend::Token;
use llama_cpp_2::model::LlamaModel;
use spillway_actors::tools::MARKERS;

pub(super) fn of(model: &LlamaModel) -> Vec<Token> {
    let vocab = model.vocab();
    let token = |marker: &&str| match vocab.tokenize(marker.as_bytes(), false, true).as_slice() {
        [only] if vocab.token_to_piece(*only, false, None).is_empty() => Some(only.0),
        _ => None,
    };
    MARKERS.iter().filter_map(token).collect()
}
