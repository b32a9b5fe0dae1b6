//! What the listeners are told: bounds of connections, CORS, TLS.

use std::{fmt, sync::Arc, time::Duration};

/// `[server]`: what one connection, and all of them, may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeConfig {
    /// Open at once.
    pub max_connections: usize,
    /// From one address; 0 = no bound.
    pub max_connections_per_address: usize,
    pub header_timeout: Duration,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub idle_timeout: Duration,
    pub upload_timeout: Duration,
    /// Memory of all request bodies together.
    pub max_bodies_bytes: usize,
    pub stalled_reader_timeout: Duration,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            max_connections_per_address: 0,
            header_timeout: Duration::from_secs(10),
            max_header_bytes: 16 << 10,
            max_headers: 100,
            idle_timeout: Duration::from_secs(75),
            upload_timeout: Duration::from_secs(30),
            max_bodies_bytes: 256 << 20,
            stalled_reader_timeout: Duration::from_secs(20),
        }
    }
}

/// Web pages that may call the API.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CorsOrigins {
    /// Any page; only where every request needs a key.
    pub any: bool,
    /// As browsers write them: scheme, host, port if it is not the scheme's own.
    pub listed: Vec<String>,
}

impl CorsOrigins {
    pub fn allow(&self, origin: &str) -> bool {
        self.any || self.listed.iter().any(|listed| listed == origin)
    }
}

/// A certificate chain with its key, ready to be served.
#[derive(Clone)]
pub struct TlsIdentity {
    pub server: Arc<rustls::ServerConfig>,
    /// Of both files: whether they changed.
    digest: blake3::Hash,
}

impl TlsIdentity {
    pub(super) fn new(server: rustls::ServerConfig, digest: blake3::Hash) -> Self {
        Self { server: Arc::new(server), digest }
    }
}

impl PartialEq for TlsIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for TlsIdentity {}

/// Nothing of a key is shown.
impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsIdentity")
    }
}
