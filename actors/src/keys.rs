//! API keys: who may ask, for what, and how much at once. A secret is shown once and kept as a keyed digest; what is hot is
//! read from a published map, never asked of an actor. Knows no HTTP and enforces no budget: money is the ledger's.

mod bucket;
mod directory;
mod limiter;
mod pass;
mod pepper;
mod record;
mod secret;
mod store;
#[cfg(test)]
mod tests;
mod wish;

pub use directory::{Key, Keys, KeysError, Recognised};
pub use limiter::{EmbeddedLimiter, Limiter, Limits, Meter, Refusal, Standing, Verdict};
pub use pass::{Hold, Pass};
pub use pepper::{Pepper, PepperError};
pub use record::{KeyPolicy, KeyRecord, KeyState, MAX_GROUPS, MAX_KEYS};
pub use secret::{SECRET_PREFIX, Secret};
pub use store::{Answer, FileStore, KeyStore, Loaded, MemoryStore, Stamp, StoreError};
pub use wish::{BudgetWish, KeyWish, WishFault};

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, as keys count their life.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
