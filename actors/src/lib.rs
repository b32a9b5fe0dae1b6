//! The deciding half of Spillway: everything that grades, routes, supervises and accounts. It knows no HTTP server and
//! no llama.cpp.
//!
//! # The tree that runs
//!
//! ```text
//! root
//!   ledger
//!   cloud-supervisor
//!     cloud/<provider>/<n>
//!   gpu-supervisor
//!     gpu/<name>
//!   health
//!   classifier
//!   router
//! ```
//!
//! Every supervisor is one_for_one. What must survive an actor lives outside all of them: open requests in the
//! [`jobs::JobTable`], engine children and leases in the [`gpu::EngineSlot`], provider knowledge in
//! [`cloud::Provider`], API keys and what is left of their limits in [`keys::Keys`], money in the [`ledger::Ledger`].
//!
//! # The way of a request
//!
//! let in by [`keys`] → admitted by [`jobs`] → graded by [`classify`] → sent somewhere by [`route`] → carried by a [`flight`] to a
//! [`gpu`] or the [`cloud`] → settled once in [`jobs`] and [`ledger`]. [`supervise`] and [`runtime`] see all of it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods))]

pub mod chaos;
pub mod classify;
pub mod cloud;
pub mod config;
pub mod constrain;
pub mod domain;
pub mod flight;
pub mod gguf;
pub mod gpu;
pub mod health;
pub mod jobs;
pub mod keys;
pub mod ledger;
mod lock;
pub mod observe;
pub mod route;
pub mod runtime;
#[cfg(test)]
mod simulation;
pub mod supervise;
pub mod task;
pub mod tools;
pub mod upstream;
