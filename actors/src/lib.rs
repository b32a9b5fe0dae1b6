//! The deciding half of Spillway.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod chaos;
pub mod classify;
pub mod cloud;
pub mod config;
pub mod domain;
pub mod flight;
pub mod gpu;
pub mod health;
pub mod jobs;
pub mod ledger;
pub mod observe;
pub mod route;
pub mod supervise;
pub mod task;
