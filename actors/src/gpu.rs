//! Everything about one local target: its life-cycle machine, the slot that outlives actors, the engine child and the
//! frames spoken with it. Knows no llama.cpp. A target may also be a [`server`] that somebody else runs: it has the same life,
//! leases and epochs, and no child.

pub mod actor;
mod canary;
pub mod device;
pub mod frame;
mod killed;
pub mod ladder;
pub mod life;
pub mod link;
pub mod memory;
pub mod poison;
pub mod process;
pub mod server;
pub mod slot;
pub mod watchdog;

pub use actor::{EngineKind, GpuModelActor, GpuMsg};
pub use slot::{EngineSlot, JobStream, Lease, SlotView, Tenant};
