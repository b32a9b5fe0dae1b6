//! `spillway check`: whether the model files that the configuration names are whole, and, with `--online`, whether each
//! configured cloud model answers as the configuration says. Online it asks every model that has a key a few tokens' worth,
//! and nobody else anything; it changes nothing.

mod baseline;
mod command;
mod models;
mod online;
mod prefill;
mod report;

pub use baseline::saves_nothing;
pub(crate) use command::faults;
pub use command::{CheckArgs, run};
pub use models::{ModelFiles, models};
pub use online::{ask_all, costs_at_most};
pub use report::{ModelReport, Report};
