//! Everything about one local GPU target.

pub mod frame;
