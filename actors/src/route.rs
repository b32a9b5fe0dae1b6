//! Where a request goes. [`plan`] is the pure decision over the [`facts`] that [`fleet`] reads: [`gates`] remove,
//! [`policy`] orders. RouterActor owns the queue and writes leases down; ClassifierActor grades and forwards to it;
//! [`explain`] shows a decision without taking it. [`take_over`] orders the ways on for a stream that was cut.

pub mod actor;
pub mod classifier;
mod estimate;
pub mod explain;
pub mod facts;
#[cfg(test)]
mod fixtures;
pub mod fleet;
pub mod gates;
pub mod plan;
pub mod policy;
mod refusal;
mod sentence;
pub mod session;
pub mod take_over;
#[cfg(test)]
mod tests;

pub use actor::{Decision, RouterActor, RouterMsg};
pub use classifier::{ClassifierActor, ClassifierMsg};
pub use fleet::Fleet;
pub use plan::Candidate;
