//! How many tokens a request's prompt has, without running it.

use super::Services;
use crate::{cloud, domain::ChatRequest};

/// Tokens of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCount {
    pub tokens: u64,
    /// Counted by the tokenizer of an engine that may serve the request; else estimated from its text.
    pub is_exact: bool,
}

/// Counts.
pub async fn count_tokens(_services: &Services, request: &ChatRequest) -> TokenCount {
    TokenCount { tokens: cloud::count::prompt_tokens(request), is_exact: false }
}
