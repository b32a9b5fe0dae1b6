//! Where a request goes. [`plan`] is the pure decision over the facts that [`fleet`] reads; RouterActor owns the queue
//! and writes leases down; ClassifierActor grades and forwards to it. [`take_over`] plans for streams that were cut.

pub mod actor;
pub mod classifier;
pub mod fleet;
pub mod plan;
pub mod take_over;

pub use actor::{Decision, RouterActor, RouterMsg};
pub use classifier::{ClassifierActor, ClassifierMsg};
pub use fleet::Fleet;
pub use plan::Candidate;
