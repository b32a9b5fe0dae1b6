//! What is remembered of conversations: the hardest tier each has reached, and which target holds its cache. Kept outside
//! RouterActor, so that a conversation outlives it. Holds keyed hashes, never text; bounded in number and time.

mod memory;

use crate::{
    config::SessionConfig,
    domain::{ChatRequest, Complexity, Input, Message},
    jobs::TargetKey,
};
use memory::Memory;
use parking_lot::Mutex;
use std::{fmt, sync::Arc};
use tokio::time::Instant;

/// Longer conversations are recognised by their first user message alone.
const MESSAGES: usize = 1024;
/// Bytes hashed of a message, from its start and from its end; its length counts too.
const EDGE: usize = 256;
/// Turns looked back at for a known prefix: an edited or retried last turn still finds the one before.
const TURNS: usize = 8;

/// A keyed hash.
type Id = [u8; 16];

/// A request's place among conversations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// By the client's own name for it, else by how it began. `None` for a prompt of token ids.
    id: Option<Id>,
    /// It was named, or has turns before this one: only then can something be known of it.
    goes_on: bool,
    /// The last turns as prefixes of the whole text, longest first, each with its estimated tokens.
    prefixes: Vec<(Id, u64)>,
}

/// What is known of a request's conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recalled {
    /// The hardest tier so far.
    pub tier: Option<Complexity>,
    /// Who holds the cache of its longest known prefix, and that prefix in tokens.
    pub cache: Option<(TargetKey, u64)>,
}

impl Recalled {
    pub const NOTHING: Self = Self { tier: None, cache: None };

    /// Tokens this target need not read again; `None` = it does not know the conversation. An engine that died took its
    /// cache along: its next epoch is another target.
    pub fn cached_at(self, key: TargetKey) -> Option<u64> {
        self.cache.and_then(|(holder, tokens)| (holder == key).then_some(tokens))
    }
}

#[derive(Debug)]
struct Remembered {
    tiers: Memory<Complexity>,
    caches: Memory<TargetKey>,
}

/// The table of conversations. Clones share it.
#[derive(Clone)]
pub struct Sessions {
    /// Of this process: nobody can tell from a hash what was said.
    key: [u8; 32],
    remembered: Arc<Mutex<Remembered>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key would tell who said what.
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new(SessionConfig::default())
    }
}

impl Sessions {
    pub fn new(config: SessionConfig) -> Self {
        let tiers = Memory::new(config.max_sessions, config.ttl);
        let caches = Memory::new(config.max_sessions, config.ttl);
        Self { key: rand::random(), remembered: Arc::new(Mutex::new(Remembered { tiers, caches })) }
    }

    /// Recognises a request. Bounded work, whatever its length.
    pub fn conversation(&self, request: &ChatRequest) -> Conversation {
        let named = request.session.as_ref().map(|name| {
            let mut hasher = self.hasher("name", request);
            feed(&mut hasher, name);
            id(&hasher)
        });
        match &request.input {
            Input::Messages(messages) => {
                let (began, prefixes) = self.prefixes(request, messages);
                let goes_on = named.is_some() || messages.iter().any(|message| message.role == "assistant");
                Conversation { id: named.or(began), goes_on, prefixes }
            }
            Input::Text(_) | Input::Tokens(_) | Input::Several(_) => {
                Conversation { id: named, goes_on: named.is_some(), prefixes: Vec::new() }
            }
        }
    }

    pub fn recall(&self, conversation: &Conversation, now: Instant) -> Recalled {
        let remembered = self.remembered.lock();
        let id = conversation.id.filter(|_| conversation.goes_on);
        let known = |(id, tokens): &(Id, u64)| remembered.caches.get(id, now).map(|holder| (holder, *tokens));
        Recalled {
            tier: id.and_then(|id| remembered.tiers.get(&id, now)),
            cache: conversation.prefixes.iter().find_map(known),
        }
    }

    /// Remembers where a request went. `tier` only if the router chose it.
    pub fn note(&self, conversation: &Conversation, tier: Option<Complexity>, holder: TargetKey, now: Instant) {
        let mut remembered = self.remembered.lock();
        if let (Some(id), Some(tier)) = (conversation.id, tier) {
            let reached = remembered.tiers.get(&id, now).map_or(tier, |before| before.max(tier));
            remembered.tiers.put(id, reached, now);
        }
        if let Some((prefix, _)) = conversation.prefixes.first() {
            remembered.caches.put(*prefix, holder, now);
        }
    }

    /// How the conversation began, and its last turns. `user` and `prompt_cache_key` tell two alike beginnings apart.
    fn prefixes(&self, request: &ChatRequest, messages: &[Message]) -> (Option<Id>, Vec<(Id, u64)>) {
        let whose = |name| request.body.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        let mut text = self.hasher("text", request);
        feed(&mut text, whose("user"));
        feed(&mut text, whose("prompt_cache_key"));
        let turns = messages.iter().filter(|message| ends_turn(message)).count();
        let (mut began, mut prefixes, mut turn, mut tokens) = (None, Vec::new(), 0, 0);
        for message in messages.iter().take(MESSAGES) {
            feed(&mut text, &message.role);
            feed(&mut text, &message.content);
            tokens += message.content.len() as u64 / 4 + 4;
            if began.is_none() && message.role == "user" {
                began = Some(id(&text));
            }
            if ends_turn(message) {
                turn += 1;
                if turn + TURNS > turns {
                    prefixes.push((id(&text), tokens));
                }
            }
        }
        if messages.len() > MESSAGES {
            prefixes.clear();
        }
        prefixes.reverse();
        (began, prefixes)
    }

    /// Nobody's conversation is another's, whatever both call theirs: keys of one named group are one caller.
    fn hasher(&self, domain: &str, request: &ChatRequest) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let scope = request.caller.as_ref().map_or(0, |caller| caller.cache_scope());
        hasher.update(&scope.to_le_bytes());
        feed(&mut hasher, domain);
        hasher
    }
}

/// What a model answers next to.
fn ends_turn(message: &Message) -> bool {
    matches!(message.role.as_str(), "user" | "tool" | "function")
}

/// Length, both ends: enough to tell texts apart, and the same work for a long one.
fn feed(hasher: &mut blake3::Hasher, text: &str) {
    let bytes = text.as_bytes();
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    let (head, rest) = bytes.split_at(bytes.len().min(EDGE));
    hasher.update(head);
    hasher.update(rest.get(rest.len().saturating_sub(EDGE)..).unwrap_or_default());
}

fn id(hasher: &blake3::Hasher) -> Id {
    let mut id = Id::default();
    hasher.finalize_xof().fill(&mut id);
    id
}

#[cfg(test)]
mod tests;
