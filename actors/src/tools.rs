//! Calling tools with a local model: what the model is told, what it may write, and what of its text is a call.
//!
//! Pure. A model that was trained for tools has a [`Dialect`], which its chat template shows; every other model is told a
//! format of our own and held to it by a grammar. Running a tool is the client's business.

mod dialect;
mod grammar;
mod json;
mod prompt;
mod read;

pub use dialect::{ChatTraits, Dialect, MARKERS};
pub use grammar::{answer_grammar, unmet};
pub use prompt::chat_prompt;
pub use read::{Piece, Reader};

#[cfg(test)]
mod tests;
