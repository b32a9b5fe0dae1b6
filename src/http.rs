//! The API listener: bytes in, OpenAI shapes out. Parses, admits, launches, renders; decides nothing.
//!
//! A request's way: [`listen`] accepts the connection, [`routes`] dispatches, `access` looks at its key, `body` reads a bounded body, [`parse`] makes
//! a `ChatRequest` or refuses, the job table admits, a flight is launched, `answer` waits for its first event, and then
//! [`render`] gives one object or [`stream`] gives server-sent events. Every refusal on the way is one [`error`] object.

mod access;
mod answer;
mod anthropic;
mod arrival;
mod body;
mod catalogue;
mod dialect;
mod embeddings;
pub mod error;
#[cfg(test)]
mod fixtures;
mod frames;
pub mod listen;
mod openai;
mod openapi;
pub(crate) mod origin;
pub mod parse;
mod ready;
pub mod render;
mod responses;
mod route;
pub mod routes;
pub mod stream;
#[cfg(test)]
mod typed;

pub use dialect::{Endpoint, request_in};
pub use frames::chat_events;
pub use listen::{Door, Limits, serve};
pub(crate) use ready::is_ready;
pub use routes::{EdgeState, api_router};
