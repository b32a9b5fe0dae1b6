//! The tree: who starts whom, in which order, and what happens when one dies.

pub mod address;
pub mod children;
pub mod policy;
pub mod supervisor;
pub mod tree;

pub use address::Address;
pub use supervisor::{Supervisor, SupervisorMsg, answers};
pub use tree::{ActorRecord, Tree};
