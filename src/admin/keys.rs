//! `/admin/keys`: makes, lists and revokes API keys of the running gateway. A secret is shown in the answer that made it and
//! never again.
//!
//! - `POST /admin/keys` takes `{"name", "group"?, "models"?: [names], "local_only"?, "expires_in_s"?, "requests_per_minute"?,
//!   "tokens_per_minute"?, "concurrency"?, "budget_usd"?: {"day"?, "month"?, "total"?}, "priority"?: "low|normal|high"}`,
//!   amounts as decimal strings; what is left out is no limit. 201 with the key and its `secret`.
//! - `GET /admin/keys?from=N&limit=N` gives `{"object": "list", "store", "data": [keys], "next"}`, at most 1,000 of them. A key:
//!   `{"object": "api_key", "id", "name", "group", "prefix", "state": "active|expired|revoked", "created_at", "expires_at",
//!   "revoked_at", …what it may, as above…, "running", "requests_remaining", "tokens_remaining", "spent_usd": {"day", "month",
//!   "total"}}`, times in seconds since 1970; what is reserved counts as spent.
//! - `DELETE /admin/keys/{id}` gives the key, revoked; again as often as one likes. 404 `key_not_found` for no such key.
//!
//! Errors are OpenAI error objects; `param` names the field at fault.

use super::AdminState;
use crate::{
    http::error::{ErrorReply, respond},
    keys::{names, view},
};
use axum::{
    Json,
    body::Bytes,
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use spillway_actors::{
    domain::{ErrorKind, GatewayError},
    flight::Services,
    keys::{Key, KeyState, KeyWish, Keys, KeysError, StoreError, unix_now},
};
use tokio::time::Instant;

/// The longest wish.
pub(super) const MAX_WISH_BYTES: usize = 64 << 10;
/// Keys shown at once.
const MAX_PAGE: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Page {
    from: usize,
    limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { from: 0, limit: MAX_PAGE }
    }
}

/// `?from=N&limit=N`: keys in order of creation; `next` is where the following page begins.
pub(super) async fn list(State(state): State<AdminState>, page: Result<Query<Page>, QueryRejection>) -> Response {
    let Ok(Query(Page { from, limit })) = page else {
        return respond(&GatewayError::invalid(None, "want numbers: ?from=N&limit=N"));
    };
    let services = &state.runtime.services;
    let keys = &services.keys;
    let data: Vec<Value> =
        keys.all().iter().skip(from).take(limit.min(MAX_PAGE)).map(|key| shown(services, key)).collect();
    let next = from + data.len();
    Json(json!({"object": "list", "store": keys.place(), "data": data, "next": next})).into_response()
}

/// A key and how it stands now.
fn shown(services: &Services, key: &Key) -> Value {
    let mut shown = view::key(&key.record, unix_now());
    let [day, month, total] = services.ledger.spent_by(&key.caller.key).map(|spent| spent.posted + spent.reserved);
    let standing = services.keys.standing(key, Instant::now());
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("running".to_owned(), standing.running.into());
        fields.insert("requests_remaining".to_owned(), standing.requests.map(|meter| meter.remaining).into());
        fields.insert("tokens_remaining".to_owned(), standing.tokens.map(|meter| meter.remaining).into());
        let spent = json!({"day": day.to_usd(), "month": month.to_usd(), "total": total.to_usd()});
        fields.insert("spent_usd".to_owned(), spent);
    }
    shown
}

pub(super) async fn create(State(state): State<AdminState>, body: Result<Bytes, BytesRejection>) -> Response {
    let Ok(body) = body else {
        let message = format!("a key is one JSON object of at most {MAX_WISH_BYTES} bytes");
        return respond(&GatewayError::gateway(ErrorKind::TooLarge, message));
    };
    let wish: KeyWish = match serde_json::from_slice(&body) {
        Ok(wish) => wish,
        Err(error) => return respond(&GatewayError::invalid(None, format!("this is no key: {error}"))),
    };
    let services = &state.runtime.services;
    let now = unix_now();
    let made = match names::resolved(wish, &services.config) {
        Ok(wish) => services.keys.create(wish, now).await,
        Err(fault) => Err(fault.into()),
    };
    match made {
        Ok((secret, key)) => {
            tracing::info!(id = key.id, group = key.group, "an API key was made");
            let fresh = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
            (StatusCode::CREATED, fresh, Json(view::made(&key, &secret, now))).into_response()
        }
        Err(error) => refused(&error),
    }
}

/// Idempotent: a key that was revoked before is shown as it is.
pub(super) async fn revoke(State(state): State<AdminState>, Path(id): Path<String>) -> Response {
    match state.runtime.services.keys.revoke(&id, unix_now()).await {
        Ok(Some(key)) => {
            tracing::info!(id = key.id, "an API key was revoked");
            Json(view::key(&key, unix_now())).into_response()
        }
        Ok(None) => ErrorReply::not_found("key_not_found", "there is no such API key").into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &KeysError) -> Response {
    let (message, field) = match error {
        KeysError::Wish(fault) => (fault.to_string(), Some(fault.field)),
        KeysError::Store(StoreError::Full | StoreError::TooManyGroups | StoreError::Taken) => (error.to_string(), None),
        _ => {
            tracing::warn!(%error, "the key store failed");
            return respond(&GatewayError::gateway(ErrorKind::Unavailable, error.to_string()));
        }
    };
    respond(&GatewayError::invalid(field, message))
}

/// Counts for `/admin/status`.
pub(super) fn status(keys: &Keys, required: bool) -> Value {
    let (all, now) = (keys.all(), unix_now());
    let count = |state| all.iter().filter(|key| key.record.state(now) == state).count();
    json!({
        "required": required,
        "active": count(KeyState::Active),
        "expired": count(KeyState::Expired),
        "revoked": count(KeyState::Revoked),
    })
}
