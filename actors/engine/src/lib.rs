//! The engine child: one model, many sequences, one frame per decode step.
//!
//! ```text
//! fd 0 ── link (reader thread) ──▶ commands ──▶ engine loop ──▶ link (writer) ──▶ fd 0
//!                                                 │  scheduler: who runs, what a batch holds (pure)
//!                                                 │  job: one request's tokens, text, end (pure)
//!                                                 ▼
//!                                              Backend: llama.cpp, a simulation, or a test's fake
//! ```
//!
//! Everything but `llama` is free of llama.cpp and is built and tested in seconds without it. The gateway decides what
//! to run; this crate never retries, routes or counts money. It must be fit to be killed at any moment: nothing it holds
//! exists only here.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod backend;
pub mod devices;
pub mod draw;
pub mod embed;
pub mod engine;
pub mod gguf;
pub mod grammar;
pub mod job;
pub mod late;
pub mod link;
#[cfg(feature = "llama")]
pub mod llama;
pub mod logprobs;
pub mod memory;
pub mod pace;
pub mod prefix;
pub mod process;
pub mod sampling;
pub mod scheduler;
pub mod session;
pub mod simulated;
pub mod stop;
pub mod strftime;
pub mod template;
pub mod text;
pub mod threads;
pub mod utf8;
