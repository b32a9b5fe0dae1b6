//! Everything about one local target: its life-cycle machine, the slot that outlives actors, the engine child and the
//! frames spoken with it. Knows no llama.cpp.

pub mod actor;
pub mod frame;
pub mod ladder;
pub mod life;
pub mod link;
pub mod memory;
pub mod process;
pub mod slot;
pub mod watchdog;

pub use actor::{GpuModelActor, GpuMsg};
pub use slot::{EngineSlot, JobStream, Lease, SlotView};
