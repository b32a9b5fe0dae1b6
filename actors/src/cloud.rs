//! Providers: what was learned about each, whether a call may start now, and with which key.
//!
//! [`breaker`], [`keys`], [`discovery`] and [`provider`] remember, [`actor`] decides whether a call may start, [`keeper`]
//! keeps connection and model list fresh. [`count`] estimates what nobody counted, [`assemble`] puts a streamed answer
//! together, [`repetition`] keeps what a client has from being shown again, [`retry`] says how many extra attempts there
//! may be in all. What is said on the wire is [`upstream`](crate::upstream)'s business, and who is asked the route's.

pub mod actor;
pub mod assemble;
pub mod breaker;
pub mod count;
pub mod discovery;
pub mod keeper;
pub mod keys;
pub mod provider;
pub mod repetition;
pub mod retry;

// A provider is an upstream server with an account: who speaks of one speaks of its wire.
pub use crate::upstream::{
    Answer, Asked, Continuation, EventStream, ProviderClient, Timeouts, WholeAnswer, anthropic, body, chunk, client,
    continuation, continued_body, fault, sse, upstream_body, wire,
};
pub use actor::{CloudActor, CloudMsg};
pub use keys::KeyView;
pub use provider::{CallEnd, CloudView, Grant, Provider};
pub use retry::RetryBudget;
