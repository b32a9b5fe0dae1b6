//! What was used: sums, attempts and requests as the ledger has them.

use super::AdminState;
use crate::{http::error::respond, usage::view::View};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use spillway_actors::{
    domain::{Day, ErrorKind, GatewayError},
    ledger::store::{By, Question, StoreError},
};

/// Rows of one page.
const PAGE: usize = 1000;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    by: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

impl Asked {
    /// `Ok(None)`: no lines are asked for.
    fn question(&self) -> Result<Option<Question>, GatewayError> {
        let Some(by) = &self.by else {
            return match (&self.since, &self.until) {
                (None, None) => Ok(None),
                _ => Err(GatewayError::invalid("by", "since and until need by = model, target, key or day")),
            };
        };
        let by = By::parse(by).ok_or_else(|| GatewayError::invalid("by", "want model, target, key or day"))?;
        Ok(Some(Question { by, since: day("since", self.since.as_ref())?, until: day("until", self.until.as_ref())? }))
    }
}

fn day(param: &'static str, text: Option<&String>) -> Result<Option<Day>, GatewayError> {
    let wanted = || GatewayError::invalid(param, "want a day as YYYY-MM-DD");
    text.map(|text| Day::parse(text).ok_or_else(wanted)).transpose()
}

/// Sums of all time by model; with `?by=`, lines of the days from `since` to `until` as well.
pub(super) async fn usage(State(state): State<AdminState>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let services = &state.runtime.services;
    let Ok(Query(asked)) = asked else {
        return respond(&GatewayError::invalid(
            None,
            "want ?by=model|target|key|day&since=YYYY-MM-DD&until=YYYY-MM-DD",
        ));
    };
    let question = match asked.question() {
        Ok(question) => question,
        Err(error) => return respond(&error),
    };
    let mut body = json!(services.ledger.snapshot());
    if let Some(question) = question {
        match services.ledger.usage(question).await {
            Ok(lines) => {
                let view = View::new(question.by, lines, &state.runtime.live.load());
                body["usage"] = view.naming(&services.keys).json();
            }
            Err(error) => return unread(&error),
        }
    }
    Json(body).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Page {
    from: u64,
    limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { from: 0, limit: PAGE }
    }
}

fn no_page() -> Response {
    respond(&GatewayError::invalid(None, "want numbers: ?from=N&limit=N"))
}

/// Attempts as the ledger has them, oldest first; `next` is where the following page begins.
pub(super) async fn attempts(State(state): State<AdminState>, page: Result<Query<Page>, QueryRejection>) -> Response {
    let Ok(Query(page)) = page else { return no_page() };
    match state.runtime.services.ledger.attempts(page.from, page.limit.min(PAGE)).await {
        Ok((rows, next)) => Json(json!({"attempts": rows, "next": next})).into_response(),
        Err(error) => unread(&error),
    }
}

/// The newest requests, newest first.
pub(super) async fn requests(State(state): State<AdminState>, page: Result<Query<Page>, QueryRejection>) -> Response {
    let Ok(Query(page)) = page else { return no_page() };
    match state.runtime.services.ledger.requests(page.limit.min(PAGE)).await {
        Ok(rows) => Json(json!({"requests": rows})).into_response(),
        Err(error) => unread(&error),
    }
}

fn unread(error: &StoreError) -> Response {
    tracing::warn!(%error, "the ledger cannot be read");
    respond(&GatewayError::gateway(ErrorKind::Unavailable, "the ledger's database cannot be read now; see the log"))
}
