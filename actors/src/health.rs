//! What is known of the hardware. [`nvml`] asks the driver on a thread of its own; HealthActor publishes one snapshot
//! that everyone reads. Life-cycle and breaker state are published by their owners, not here.

pub mod actor;
pub mod nvml;

pub use actor::{HealthActor, HealthMsg, HealthSnapshot, Vitals};
pub use nvml::NvmlProbe;
