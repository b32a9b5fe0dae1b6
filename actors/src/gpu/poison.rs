//! Requests that may have ended an engine, and those that did.
//!
//! After a death that no outside signal caused, whoever was leased is a suspect: it runs alone, so that the next death
//! names its cause. One that was alone at a death is barred from GPUs for a while; one that ends well is cleared. Known by
//! a keyed hash of prompt and schema, so a new request id changes nothing and nobody can tell from the table what was
//! said. Bounded in number and time; kept outside actors and shared by all slots, because a prompt that ends one engine
//! ends the next as well. [`Table`] is the pure part.

mod table;
#[cfg(test)]
mod tests;

pub use table::{DeathId, Mark, Table, Verdict};

use super::life::Guilt;
use crate::{
    domain::{ChatRequest, Input, Passage, RequestKind},
    observe,
};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    io::{self, Write},
    sync::Arc,
};
use tokio::time::Instant;

/// Fields of a request beside its prompt that make llama.cpp do something else: what it is constrained to.
const CONSTRAINTS: [&str; 6] = ["response_format", "tools", "tool_choice", "functions", "function_call", "grammar"];

/// The table all slots share.
#[derive(Clone)]
pub struct Poison {
    /// Of this process.
    key: [u8; 32],
    table: Arc<Mutex<Table>>,
}

impl Default for Poison {
    fn default() -> Self {
        Self { key: rand::random(), table: Arc::default() }
    }
}

impl Poison {
    /// What a request is known by.
    pub fn mark(&self, request: &ChatRequest) -> Mark {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let kind = match request.kind {
            RequestKind::Chat => 0,
            RequestKind::Completion => 1,
            RequestKind::Embedding => 2,
        };
        feed(&mut hasher, &[kind]);
        match &request.input {
            Input::Messages(messages) => {
                for message in messages {
                    feed(&mut hasher, message.role.as_bytes());
                    feed(&mut hasher, message.content.as_bytes());
                    feed_json(&mut hasher, message.raw.get("tool_calls"));
                }
            }
            Input::Text(text) => feed(&mut hasher, text.as_bytes()),
            Input::Tokens(tokens) => tokens.iter().for_each(|token| feed(&mut hasher, &token.to_le_bytes())),
            Input::Several(passages) => passages.iter().for_each(|passage| match passage {
                Passage::Text(text) => feed(&mut hasher, text.as_bytes()),
                Passage::Tokens(tokens) => tokens.iter().for_each(|token| feed(&mut hasher, &token.to_le_bytes())),
            }),
        }
        CONSTRAINTS.iter().for_each(|field| feed_json(&mut hasher, request.body.get(*field)));
        let mut mark = Mark::default();
        hasher.finalize_xof().fill(&mut mark);
        mark
    }

    /// How the request may run. Costs nothing while nobody is under suspicion.
    pub fn verdict(&self, request: &ChatRequest, now: Instant) -> Verdict {
        self.verdict_of(|| self.mark(request), now)
    }

    /// As [`verdict`](Self::verdict), for who keeps the mark of a long prompt.
    pub fn verdict_of(&self, mark: impl FnOnce() -> Mark, now: Instant) -> Verdict {
        if self.table.lock().is_empty() {
            return Verdict::Free;
        }
        let mark = mark();
        self.table.lock().verdict(&mark, now)
    }

    /// An engine died under these requests. `Guilt::Unknown`: [`resolve`](Self::resolve) says more later.
    pub fn died(&self, death: DeathId, leased: &[Arc<ChatRequest>], guilt: Guilt, now: Instant) {
        if leased.is_empty() || guilt == Guilt::Outside {
            return;
        }
        let marks: Vec<Mark> = leased.iter().map(|request| self.mark(request)).collect();
        self.table.lock().accuse(death.clone(), &marks, now);
        self.resolve(&death, guilt, now);
    }

    /// The cause of a death became known.
    pub fn resolve(&self, death: &DeathId, guilt: Guilt, now: Instant) {
        let barred = match guilt {
            Guilt::Inside => self.table.lock().confirm(death, now),
            Guilt::Outside => {
                self.table.lock().absolve(death);
                false
            }
            Guilt::Unknown => false,
        };
        if barred {
            observe::request_barred(&death.0);
        }
    }

    /// An engine has answered this request.
    pub fn clear(&self, request: &ChatRequest) {
        if !self.table.lock().is_empty() {
            let mark = self.mark(request);
            self.table.lock().clear(&mark);
        }
    }
}

fn feed(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn feed_json(hasher: &mut blake3::Hasher, value: Option<&Value>) {
    hasher.update(&[u8::from(value.is_some())]);
    if let Some(value) = value {
        // Hashing cannot fail.
        let _ = serde_json::to_writer(Hashing(hasher), value);
    }
}

struct Hashing<'a>(&'a mut blake3::Hasher);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
