//! `GET /admin/events`: what the console shows, as server-sent events. First `history` (`{"samples": [one a second]}`, at most ten
//! minutes), then a `picture` at once and every second: `{"sample", "latency", "status", "actors", "cards"}`, the last three as
//! `/admin/status`, `/admin/actors` and `/admin/health/gpu` give them. A watcher that reads slowly misses pictures, nothing else.

use super::{
    AdminState,
    pulse::{self, Seat},
};
use crate::http::error::respond;
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use spillway_actors::domain::{ErrorKind, GatewayError};
use std::{convert::Infallible, time::Duration};

pub(super) async fn stream(State(state): State<AdminState>) -> Response {
    let Some(seat) = state.pulse.seat() else {
        let message = "as many consoles watch as may; close one";
        return respond(&GatewayError::gateway(ErrorKind::RateLimited, message).retry_after(Duration::from_secs(5)));
    };
    let first = [state.pulse.history(), pulse::picture_now(&state).await];
    let rest = stream::unfold(seat, next);
    let all = stream::iter(first).chain(rest).take_until(state.stop.cancelled_owned()).map(Ok::<_, Infallible>);
    ([(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")], Body::from_stream(all)).into_response()
}

/// The next picture. The place is kept until nobody wants one any more.
async fn next(mut seat: Seat) -> Option<(Bytes, Seat)> {
    seat.pictures.changed().await.ok()?;
    let picture = seat.pictures.borrow_and_update().clone();
    Some((picture, seat))
}
