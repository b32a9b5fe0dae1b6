//! The words of the problem. Values here cannot be invalid once they exist; nothing here does I/O or reads a clock.

pub mod caller;
pub mod chat;
pub mod count;
pub mod error;
pub mod event;
pub mod loading;
pub mod money;
pub mod name;
pub mod output;
pub mod sampling;
pub mod simulation;
pub mod time;
pub mod trace;

pub use caller::{BudgetLimits, Caller, DEFAULT_GROUP, Priority};
pub use chat::{
    ChatRequest, Choices, CloudBound, Input, MAX_CHOICES, Message, ModelChoice, Needs, Outbound, Passage, Premises,
    RequestKind, SamplingWish,
};
pub use count::TextCount;
pub use error::{ErrorKind, GatewayError, Origin};
pub use event::{Delta, GenerationEvent, Imprint, TokenUsage};
pub use loading::{MAX_OVERRIDE_BYTES, OverrideValue, Rope, RopeScaling};
pub use money::{NanoUsd, Price};
pub use name::{Complexity, KeyId, ModelName, RequestId, TargetName};
pub use output::{Format, OutputWish, Tool, ToolChoice, ToolWish, Unmet};
pub use sampling::Sampling;
pub use simulation::Simulation;
pub use time::{Day, Month, UnixMs};
pub use trace::{Outgoing, SpanId, Trace, TraceId, TraceParent, Who};
