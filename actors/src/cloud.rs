//! Providers: one HTTP attempt against any OpenAI-compatible API or Anthropic's, and what its answer means.
//!
//! Pure parts: [`sse`] (bytes to events), [`body`] (our request to the provider's JSON), [`chunk`] (the provider's JSON to
//! our events), [`anthropic`] (both for the second wire format), [`wire`] (what hangs on which of the two is spoken),
//! [`continuation`] and [`repetition`] (going on with an answer that another target began),
//! [`fault`] (statuses and error bodies to [`GatewayError`](crate::domain::GatewayError)). [`client`] is the only part that
//! opens a socket; [`breaker`], [`keys`], [`discovery`] and [`provider`] remember what was learned about a provider,
//! [`actor`] decides whether a call may start, [`keeper`] keeps connection and model list fresh. [`count`] estimates what
//! nobody counted, [`embed`] is request and answer of vectors, [`retry`] says how many extra attempts there may be in all. Nothing here retries or chooses a target.

pub mod actor;
pub mod anthropic;
pub mod assemble;
pub mod body;
pub mod breaker;
pub mod chunk;
pub mod client;
pub mod continuation;
pub mod count;
pub mod discovery;
pub mod embed;
pub mod fault;
pub mod keeper;
pub mod keys;
pub mod provider;
pub mod repetition;
pub mod retry;
pub mod sse;
pub mod wire;

pub use actor::{CloudActor, CloudMsg};
pub use body::{continued_body, upstream_body};
pub use client::{Answer, EventStream, ProviderClient, Timeouts, WholeAnswer};
pub use continuation::Continuation;
pub use keys::KeyView;
pub use provider::{CallEnd, CloudView, Grant, Provider};
pub use retry::RetryBudget;
