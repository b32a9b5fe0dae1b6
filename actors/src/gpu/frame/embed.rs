//! The frames of embeddings: texts in, vectors out. The vectors come as [`JobEvent::Vector`](super::JobEvent), each as soon
//! as it is computed, so that no frame grows with the number of texts.

use super::{JobId, Prompt};
use serde::{Deserialize, Serialize};

/// Texts that share one request. Answered by one `Vector` for each in any order, `Accepted` once all of them are tokenised,
/// and last exactly one `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbedSpec {
    pub job: JobId,
    /// At least one; `Chat` prompts are rendered like any other.
    pub inputs: Vec<Prompt>,
}

/// What a loaded model can make of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingInfo {
    /// Numbers of one vector.
    pub dimensions: u32,
    /// Most tokens of one text.
    pub max_tokens: u32,
}
