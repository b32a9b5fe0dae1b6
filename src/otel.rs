//! Traces: what a request's way was, as spans for a collector that speaks OTLP. The tree of spans is drawn when the request has
//! ended, from what is known of it then ([`draw`]); put into OTLP's words ([`otlp`]); and sent in batches ([`export`]). On the
//! request's way there is one message, and nothing at all without a configured collector.

pub mod draw;
pub mod export;
pub mod otlp;
pub mod peers;
pub mod protobuf;
