//! The harness of every black-box test: the real gateway binary with its real engine, a simulated provider in this
//! process, clients that write down what they saw, and the rules that the record must keep. Waiting means polling with a
//! deadline; nothing here sleeps and hopes.

#![allow(dead_code, unused_imports, reason = "each binary that shares the harness uses its own part")]

pub mod accounts;
pub mod client;
pub mod cloud;
pub mod collector;
pub mod files;
pub mod gateway;
pub mod history;
pub mod load;
pub mod nvml;
pub mod poll;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod rude;
pub mod setup;

pub use spillway::chaos::checks;

pub use client::{Ask, Client, Outcome, Record};
pub use collector::Collector;
pub use gateway::{Gateway, Status};
pub use history::History;
pub use load::{Load, Mix};
pub use setup::{Folder, Setup};
