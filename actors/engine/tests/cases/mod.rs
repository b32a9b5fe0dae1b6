//! Stories of the engine with a real model, by theme.

mod constraints;
mod pace;
mod reuse;
