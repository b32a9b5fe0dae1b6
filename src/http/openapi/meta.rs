//! Models, decisions, and the gateway's own state.

use super::shared::Free;
use utoipa::ToSchema;

/// The names that requests may use.
#[derive(ToSchema)]
pub(super) struct Models {
    object: ListObject,
    data: Vec<Model>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum ListObject {
    List,
}

#[derive(ToSchema)]
pub(super) struct Model {
    id: String,
    object: ModelObject,
    created: u64,
    owned_by: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum ModelObject {
    Model,
}

/// The decision over a chat that came now, step by step; nothing was run.
#[derive(ToSchema)]
pub(super) struct RouteExplanation {
    object: RouteObject,
    score: Free,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum RouteObject {
    Route,
}

#[derive(ToSchema)]
pub(super) struct Health {
    status: HealthStatus,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum HealthStatus {
    Ok,
}

/// Whether a request sent now would be served, and why not.
#[derive(ToSchema)]
pub(super) struct Readiness {
    status: ReadinessStatus,
    reasons: Vec<String>,
    /// Left out where keys are required: this is answered without one.
    targets: Option<Vec<ReadyTarget>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum ReadinessStatus {
    Ready,
    NotReady,
}

#[derive(ToSchema)]
pub(super) struct ReadyTarget {
    target: String,
    #[schema(nullable = false)]
    model: Option<String>,
    ready: bool,
    state: String,
}
