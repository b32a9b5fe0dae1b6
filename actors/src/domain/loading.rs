//! How a model is loaded, beyond its file.

use serde::{Deserialize, Serialize};

/// How positions are stretched beyond what a model was trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RopeScaling {
    None,
    Linear,
    Yarn,
}

/// Rotary position embedding; `None` = as the model file says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    pub freq_base: Option<f32>,
    pub freq_scale: Option<f32>,
    pub scaling: Option<RopeScaling>,
}

/// Stands in for a fact of the model file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum OverrideValue {
    Bool(bool),
    Int(i64),
    Float(f64),
    /// At most [`MAX_OVERRIDE_BYTES`].
    Text(String),
}

/// Longest key and text of an override: llama.cpp keeps them in 128 bytes with a terminator.
pub const MAX_OVERRIDE_BYTES: usize = 127;
