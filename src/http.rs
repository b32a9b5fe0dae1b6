//! The API listener: bytes in, OpenAI shapes out. Parses, admits, launches, renders; decides nothing.
//!
//! A request's way: [`listen`] accepts the connection, [`routes`] dispatches, `body` reads a bounded body, [`parse`] makes
//! a `ChatRequest` or refuses, the job table admits, a flight is launched, `answer` waits for its first event, and then
//! [`render`] gives one object or [`stream`] gives server-sent events. Every refusal on the way is one [`error`] object.

mod answer;
mod body;
mod catalogue;
pub mod error;
mod frames;
pub mod listen;
pub(crate) mod origin;
pub mod parse;
mod ready;
pub mod render;
mod route;
pub mod routes;
pub mod stream;

pub use listen::{Door, Limits, serve};
pub use routes::{EdgeState, api_router};
