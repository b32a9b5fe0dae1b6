//! The deciding half of Spillway.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cloud;
pub mod domain;
pub mod gpu;
