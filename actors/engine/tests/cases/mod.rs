//! Stories of the engine with a real model, by theme.

mod batches;
mod constraints;
mod neighbours;
mod pace;
mod reuse;
mod vectors;
