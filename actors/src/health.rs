//! How well the fleet is. [`nvml`] asks the driver on a thread of its own, [`scores`] counts what attempts have shown,
//! `probe` asks silent providers; `assess`, `strain` and `xid` decide what it means, pure; HealthActor tells the slots and
//! publishes one snapshot that everyone reads. Life-cycle and breaker state are published by their owners, not here.

pub mod actor;
pub mod assess;
mod draw;
pub mod nvml;
mod probe;
pub mod scores;
mod snapshot;
pub mod strain;
pub mod xid;

pub use actor::{HealthActor, HealthMsg};
pub use draw::{Draw, Draws};
pub use nvml::{NvmlProbe, Reading};
pub use scores::{AttemptFact, Score, Scores};
pub use snapshot::{HealthSnapshot, LocalHealth, ProbeResult, ProviderHealth, TargetVitals, Vitals};
