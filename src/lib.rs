//! The edge: HTTP in, HTTP out, process lifecycle, command line. Decides nothing.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods))]

pub mod admin;
pub mod bench;
pub mod chaos;
pub mod check;
pub mod cli;
pub mod doctor;
pub mod http;
pub mod keys;
pub mod models;
pub mod route;
pub mod serve;
pub mod sim;
mod usage;
