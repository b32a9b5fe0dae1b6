//! `spillway check --online`: whether each configured cloud model answers as the configuration says. Asks every model that
//! has a key a few tokens' worth, and nobody else anything; changes nothing.

mod online;
mod prefill;
mod report;

pub use online::{ask_all, costs_at_most};
pub use report::{ModelReport, Report};
