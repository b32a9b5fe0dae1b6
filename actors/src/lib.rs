//! The deciding half of Spillway.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod chaos;
pub mod cloud;
pub mod config;
pub mod domain;
pub mod gpu;
pub mod jobs;
pub mod observe;
pub mod supervise;
pub mod task;
