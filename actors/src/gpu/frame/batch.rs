//! The frame of a request of several answers: what they share is said once. Each answer is a job of its own, with its own
//! outputs and its own end; together they hold one lease.

use super::{JobId, JobSpec, Prompt};
use serde::{Deserialize, Serialize};

/// Answered for each member as [`ToEngine::Submit`](super::ToEngine) is for its job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Names the request: its jobs share what is free of the engine, and count as one where others want to run.
    pub group: u64,
    /// What all members have in common. Its own `job`, `prompt`, `replay`, `sent_bytes` and seed count for nothing.
    pub like: JobSpec,
    pub prompts: Vec<Prompt>,
    pub members: Vec<Member>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub job: JobId,
    /// Which of the batch's prompts; members of one prompt stand together, in the order of the prompts.
    pub prompt: u32,
    pub seed: Option<u32>,
    /// As in [`JobSpec`].
    pub replay: Vec<i32>,
    pub sent_bytes: u64,
    /// The prompt comes before the answer. Not part of `sent_bytes`.
    pub echo: Echo,
}

/// What comes of a prompt before its answer, as [`JobEvent::Echoed`](super::JobEvent::Echoed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Echo {
    #[default]
    Nothing,
    Text,
    /// And each of its tokens, with as many alternatives as the batch wants of sampled ones. All of the prompt is computed for
    /// it, whatever is there already.
    Scored,
}

impl Batch {
    /// The member as a job of its own, but for its prompt.
    pub fn spec_of(&self, member: &Member) -> JobSpec {
        let mut spec = self.like.clone();
        spec.job = member.job;
        spec.prompt = Prompt::Tokens(Vec::new());
        spec.sampling.seed = member.seed;
        spec.replay.clone_from(&member.replay);
        spec.sent_bytes = member.sent_bytes;
        spec
    }
}
