//! What a GGUF file says about the model in it, read before llama.cpp sees the file: header, metadata, the list of tensors
//! and whether the file is long enough to hold them. Trusts nothing: every count, length and sum is bounded, so that
//! garbage is refused with a reason and never with a panic or a large allocation.
//!
//! Reads no weights and decides nothing. Whether the rest can be loaded only llama.cpp knows.

mod file;
mod kinds;
mod model;
mod reader;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

pub use file::{check_one, inspect};
pub use kinds::{KvType, file_type_name};
pub use model::{Fim, Gguf, LOOK_BOTH_WAYS, Pooling, Tensors};
pub use reader::read;

/// Why a file is no model that can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It cannot be opened or read: absent, a folder, no permission.
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("is no model: {0}")]
    NotGguf(String),
    /// A GGUF file that contradicts itself.
    #[error("is damaged: {0}")]
    Corrupt(String),
    /// A GGUF file that ends before its tensors do.
    #[error("is cut short: its tensors end at byte {needed}, the file at {size}")]
    Truncated { needed: u64, size: u64 },
}

impl GgufError {
    /// Whether the file is there but of no use, as against absent or unreadable.
    pub const fn is_damage(&self) -> bool {
        !matches!(self, Self::Unreadable(_))
    }
}
