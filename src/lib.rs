//! The edge: HTTP in, HTTP out, process lifecycle, command line. Decides nothing.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods))]

pub mod admin;
pub mod bench;
mod call;
pub mod chaos;
mod chat;
pub mod check;
pub mod cli;
pub mod doctor;
pub mod http;
pub mod keys;
pub mod models;
#[cfg(feature = "otel")]
pub mod otel;
pub mod route;
pub mod serve;
pub mod sim;
mod top;
mod usage;
mod words;
