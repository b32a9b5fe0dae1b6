//! One HTTP server that speaks OpenAI's API or Anthropic's: what it is told, what it answers, and what its faults mean. A
//! cloud provider is one, and so is an inference server on the operator's own machines.
//!
//! Pure parts: [`sse`] (bytes to events), [`body`] (our request to the server's JSON), [`chunk`] (the server's JSON to our
//! events), [`anthropic`] (both for the second wire format), [`wire`] (what hangs on which of the two is spoken),
//! [`continuation`] (going on with an answer that another target began), [`fault`] (statuses and error bodies to
//! [`GatewayError`](crate::domain::GatewayError)). [`client`] is the only part that opens a socket. Nothing here retries,
//! chooses a target or remembers anything.

pub mod anthropic;
pub mod body;
pub mod chunk;
pub mod client;
pub mod continuation;
pub mod embed;
pub mod fault;
pub mod sse;
pub mod wire;

pub use body::{OutputCap, continued_body, upstream_body};
pub use client::{Answer, Asked, CallId, EventStream, Presence, ProviderClient, Timeouts, WholeAnswer};
pub use continuation::Continuation;
