//! The secret of a key: 256 random bits behind a prefix that people and secret scanners recognise. Never printed but by
//! the one who made it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng, rngs::SysRng};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroize};
use std::io;

/// What every key begins with.
pub const SECRET_PREFIX: &str = "sk-spillway-";
/// Random characters that are shown, to tell keys apart: 36 of 256 bits.
const SHOWN: usize = 6;
/// Longer than any key; what is longer is not looked at.
const MAX_BYTES: usize = 256;

/// A secret as a client sends it, or as it is shown once.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// A new one, from the system's own randomness.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn generate() -> io::Result<Self> {
        let mut bits = [0; 32];
        SysRng.try_fill_bytes(&mut bits).map_err(|error| io::Error::other(error.to_string()))?;
        let mut text = String::with_capacity(64);
        text.push_str(SECRET_PREFIX);
        URL_SAFE_NO_PAD.encode_string(bits, &mut text);
        bits.zeroize();
        Ok(Self(text.into()))
    }

    /// What a client sent, if it can be a key at all. Keys of an older form must stay readable, so the prefix is not asked for.
    pub fn presented(text: &str) -> Option<Self> {
        (1..=MAX_BYTES).contains(&text.len()).then(|| Self(text.into()))
    }

    /// The beginning, which may be shown.
    pub fn shown(&self) -> String {
        self.expose().chars().take(SECRET_PREFIX.len() + SHOWN).collect()
    }

    /// All of it: for its digest, and for the one who made it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_alike_and_never_the_same() {
        let (one, two) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_eq!(one.expose().len(), SECRET_PREFIX.len() + 43);
        assert!(one.expose().starts_with(SECRET_PREFIX) && one.expose() != two.expose());
        assert!(one.expose().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_eq!(one.shown().len(), SECRET_PREFIX.len() + SHOWN);
        assert!(!format!("{one:?}").contains(one.expose().strip_prefix(SECRET_PREFIX).unwrap()));
    }

    #[test]
    fn what_cannot_be_a_key_is_not_looked_at() {
        assert!(Secret::presented("").is_none() && Secret::presented(&"x".repeat(257)).is_none());
        assert_eq!(Secret::presented("any").unwrap().expose(), "any");
    }
}
