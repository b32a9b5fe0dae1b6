//! The one error that reaches a client. Knows what happened and whether another try makes sense; only the HTTP edge
//! knows status codes. Constructing one has no side effects.

use std::{fmt, time::Duration};

/// Where a failure arose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The request itself.
    Client,
    /// The gateway: admission, routing, shutdown.
    Gateway,
    /// A target, by its configured name.
    Target(String),
}

/// What went wrong, in the words of the OpenAI error object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    InvalidRequest,
    Unauthorized,
    Forbidden,
    ModelNotFound,
    ContextLengthExceeded,
    ContentFilter,
    TooLarge,
    /// Too many requests right now.
    RateLimited,
    /// The money is gone: clients must not retry.
    InsufficientQuota,
    /// Nothing can serve this now; later it may.
    Unavailable,
    /// `local_only` and no local target can serve it.
    LocalOnlyUnavailable,
    /// A target failed in a way another target may not.
    Upstream,
    /// The deadline passed.
    Timeout,
    /// The gateway is shutting down.
    ShuttingDown,
    /// A bug of ours.
    Internal,
}

impl ErrorKind {
    /// The bounded metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::ModelNotFound => "model_not_found",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::ContentFilter => "content_filter",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::InsufficientQuota => "insufficient_quota",
            Self::Unavailable => "unavailable",
            Self::LocalOnlyUnavailable => "local_only_unavailable",
            Self::Upstream => "upstream",
            Self::Timeout => "timeout",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayError {
    pub origin: Origin,
    pub kind: ErrorKind,
    /// For the client: says what to do, never holds prompt text or secrets.
    pub message: String,
    /// The request field at fault, if one is.
    pub param: Option<String>,
    pub retry_after: Option<Duration>,
    /// The target has surely done no work for the request: it could not be reached, or said no at once.
    pub unworked: bool,
    /// A limit that the target has for the model asked, not for everything.
    pub of_model: bool,
    /// What the target said by HTTP, where it did.
    pub status: Option<u16>,
}

impl GatewayError {
    pub fn new(origin: Origin, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            origin,
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
            unworked: false,
            of_model: false,
            status: None,
        }
    }

    pub fn invalid(param: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        let mut error = Self::new(Origin::Client, ErrorKind::InvalidRequest, message);
        error.param = param.into().map(str::to_owned);
        error
    }

    pub fn gateway(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::new(Origin::Gateway, kind, message)
    }

    pub fn target(name: impl fmt::Display, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::new(Origin::Target(name.to_string()), kind, message)
    }

    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    #[must_use]
    pub fn unworked(mut self) -> Self {
        self.unworked = true;
        self
    }

    /// Whether another target may succeed where this one failed.
    pub fn may_try_elsewhere(&self) -> bool {
        match self.kind {
            ErrorKind::Upstream
            | ErrorKind::Timeout
            | ErrorKind::RateLimited
            | ErrorKind::Unavailable
            | ErrorKind::InsufficientQuota
            | ErrorKind::Unauthorized
            | ErrorKind::Forbidden
            | ErrorKind::ModelNotFound
            | ErrorKind::ContextLengthExceeded => matches!(self.origin, Origin::Target(_)),
            _ => false,
        }
    }
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Target(name) => write!(f, "{} ({}): {}", self.kind.label(), name, self.message),
            Origin::Client | Origin::Gateway => write!(f, "{}: {}", self.kind.label(), self.message),
        }
    }
}

impl std::error::Error for GatewayError {}
