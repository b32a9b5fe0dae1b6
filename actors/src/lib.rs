//! The deciding half of Spillway.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod classify;
pub mod config;
pub mod domain;
pub mod gpu;
