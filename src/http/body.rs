//! Reading a request's body: bounded in bytes, in time, and in the memory all bodies share.

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, header};
use parking_lot::Mutex;
use spillway_actors::{
    config::ServerConfig,
    domain::{ErrorKind, GatewayError, Origin},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// A body that is too large is read on this far, or this long, so that its sender reads the answer.
const DRAIN_BYTES: usize = 32 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// The same for a sender that is not let in.
const DISCARD_BYTES: usize = 1 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// A body of which nothing came for so long stands still.
const STANDS_STILL: Duration = Duration::from_secs(1);
/// How long one that is given up may take to go.
const GIVES_WAY: Duration = Duration::from_millis(100);

/// Of one body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) bytes: usize,
    /// A body that is not whole by then is refused.
    pub(super) time: Duration,
}

impl From<&ServerConfig> for Bounds {
    fn from(server: &ServerConfig) -> Self {
        Self { bytes: server.max_body_bytes, time: server.edge.upload_timeout }
    }
}

/// What all bodies may take up together.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    room: Arc<Semaphore>,
    arriving: Arc<Mutex<Vec<Arc<Arriving>>>>,
}

/// A body of which more is to come.
#[derive(Debug)]
struct Arriving {
    last_piece: Mutex<Instant>,
    /// It stands still, and its room is needed.
    given_up: CancellationToken,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(kib(bytes))), arriving: Arc::default() }
    }

    /// Waits for nobody who sends: a full house is a reason to send the newest away. Those that stand still go first.
    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, GatewayError> {
        let permits = u32::try_from(kib(bytes)).unwrap_or(u32::MAX);
        let room = || Arc::clone(&self.room);
        if let Ok(held) = room().try_acquire_many_owned(permits) {
            return Ok(held);
        }
        while let Some(stalled) = self.longest_stalled(Instant::now()) {
            stalled.given_up.cancel();
            if let Ok(Ok(held)) = tokio::time::timeout(GIVES_WAY, room().acquire_many_owned(permits)).await {
                return Ok(held);
            }
        }
        room().try_acquire_many_owned(permits).map_err(|_| {
            let message = "the gateway holds as many request bodies as it can; retry shortly";
            GatewayError::gateway(ErrorKind::RateLimited, message).retry_after(Duration::from_secs(1))
        })
    }

    fn longest_stalled(&self, now: Instant) -> Option<Arc<Arriving>> {
        let arriving = self.arriving.lock();
        let waits = arriving.iter().filter(|one| !one.given_up.is_cancelled());
        let since = waits.map(|one| (*one.last_piece.lock(), one));
        let (last, one) = since.min_by_key(|(last, _)| *last)?;
        (now.duration_since(last) > STANDS_STILL).then(|| Arc::clone(one))
    }

    fn enter(&self) -> Place<'_> {
        let arriving =
            Arc::new(Arriving { last_piece: Mutex::new(Instant::now()), given_up: CancellationToken::new() });
        self.arriving.lock().push(Arc::clone(&arriving));
        Place { budget: self, arriving }
    }
}

/// Among the bodies that arrive, until dropped.
struct Place<'a> {
    budget: &'a Budget,
    arriving: Arc<Arriving>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.budget.arriving.lock().retain(|one| !Arc::ptr_eq(one, &self.arriving));
    }
}

const fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// A body and its share of the budget.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) bytes: Bytes,
    pub(super) held: OwnedSemaphorePermit,
}

/// The whole body.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    bounds: Bounds,
    budget: &Budget,
) -> Result<Upload, GatewayError> {
    let limit = bounds.bytes;
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(super::parse::fault("content-encoding", "Compressed request bodies are not supported."));
    }
    let mut data = body.into_data_stream();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > limit as u64) {
        // Who asks first is told before sending anything.
        if !headers.contains_key(header::EXPECT) {
            drain(&mut data, 0).await;
        }
        return Err(too_large(limit));
    }
    match tokio::time::timeout(bounds.time, gather(&mut data, announced, limit, budget)).await {
        Ok(Ok(upload)) => Ok(upload),
        Ok(Err(error)) => {
            drain(&mut data, limit).await;
            Err(error)
        }
        Err(_) => {
            let message = format!("The request body was not complete within {} s.", bounds.time.as_secs());
            Err(GatewayError::new(Origin::Client, ErrorKind::Timeout, message))
        }
    }
}

/// Stops at the first byte too many; what was read until then is forgotten.
async fn gather(
    data: &mut BodyDataStream,
    announced: Option<u64>,
    limit: usize,
    budget: &Budget,
) -> Result<Upload, GatewayError> {
    let mut bytes = BytesMut::new();
    let mut held = budget.take(1).await?;
    let mut place = None;
    while let Some(piece) = next_piece(data, place.as_ref()).await? {
        if bytes.len() + piece.len() > limit {
            return Err(too_large(limit));
        }
        let missing = kib(bytes.len() + piece.len()).saturating_sub(held.num_permits());
        if missing > 0 {
            held.merge(budget.take(missing * 1024).await?);
        }
        bytes.extend_from_slice(&piece);
        // Most bodies come in one piece.
        if announced.is_none_or(|announced| (bytes.len() as u64) < announced) {
            *place.get_or_insert_with(|| budget.enter()).arriving.last_piece.lock() = Instant::now();
        }
    }
    Ok(Upload { bytes: bytes.freeze(), held })
}

async fn next_piece(data: &mut BodyDataStream, place: Option<&Place<'_>>) -> Result<Option<Bytes>, GatewayError> {
    let piece = match place {
        None => data.next().await,
        Some(place) => tokio::select! {
            biased;
            () = place.arriving.given_up.cancelled() => {
                let message = "The request body stood still while others needed its room.";
                return Err(GatewayError::new(Origin::Client, ErrorKind::Timeout, message));
            }
            piece = data.next() => piece,
        },
    };
    piece.transpose().map_err(|_| GatewayError::invalid(None, "The request body could not be read to its end."))
}

/// Reads on and forgets, `read` bytes being read already.
async fn drain(data: &mut BodyDataStream, mut read: usize) {
    let _ = tokio::time::timeout(DRAIN_TIME, async {
        while let Some(Ok(piece)) = data.next().await {
            read += piece.len();
            if read > DRAIN_BYTES {
                break;
            }
        }
    })
    .await;
}

/// The body of a request that is refused by its head alone. A small one is taken in and forgotten: closing a connection with
/// unread bytes may cost its sender the answer.
pub(super) async fn discard(body: Body) {
    let mut data = body.into_data_stream();
    let mut read = 0;
    let reading = async {
        while let Some(Ok(piece)) = data.next().await {
            read += piece.len();
            if read > DISCARD_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

fn too_large(limit: usize) -> GatewayError {
    let message = format!("The request body is larger than the limit of {limit} bytes.");
    GatewayError::new(Origin::Client, ErrorKind::TooLarge, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::convert::Infallible;

    fn pieces(count: usize, size: usize) -> Body {
        Body::from_stream(stream::iter((0..count).map(move |_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; size])))))
    }

    const SHARED_KIB: usize = 64;

    fn shared() -> Budget {
        Budget::new(SHARED_KIB << 10)
    }

    const fn bounds(bytes: usize) -> Bounds {
        Bounds { bytes, time: Duration::from_secs(30) }
    }

    async fn read_all(body: Body, limit: usize, budget: &Budget) -> Result<Upload, GatewayError> {
        read(&HeaderMap::new(), body, bounds(limit), budget).await
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_read_and_its_share_given_back() {
        let budget = shared();
        let upload = read_all(pieces(4, 1000), 4000, &budget).await.unwrap();
        assert_eq!((upload.bytes.len(), upload.held.num_permits()), (4000, 4));
        drop(upload);
        assert_eq!(budget.room.available_permits(), SHARED_KIB);
        assert_eq!(read_all(pieces(4, 1001), 4000, &budget).await.unwrap_err().kind, ErrorKind::TooLarge);
        assert_eq!(budget.room.available_permits(), SHARED_KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_upload_times_out() {
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let error = read_all(stalled, 10, &shared()).await.unwrap_err();
        assert_eq!((error.kind, error.origin), (ErrorKind::Timeout, Origin::Client));
    }

    #[tokio::test(start_paused = true)]
    async fn an_announced_excess_is_drained_for_a_bounded_time_and_not_at_all_if_the_client_asked_first() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, 11.into());
        let stalled = || Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let began = tokio::time::Instant::now();
        let error = read(&headers, stalled(), bounds(10), &shared()).await.unwrap_err();
        assert_eq!((error.kind, began.elapsed()), (ErrorKind::TooLarge, DRAIN_TIME));
        headers.insert(header::EXPECT, "100-continue".parse().unwrap());
        let began = tokio::time::Instant::now();
        assert!(read(&headers, stalled(), bounds(10), &shared()).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn when_bodies_fill_the_memory_meant_for_them_the_next_is_sent_away() {
        let budget = Budget::new(3 << 10);
        let first = read_all(pieces(2, 1024), 4096, &budget).await.unwrap();
        let error = read_all(pieces(2, 1024), 4096, &budget).await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (ErrorKind::RateLimited, Some(Duration::from_secs(1))));
        drop(first);
        assert!(read_all(pieces(2, 1024), 4096, &budget).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_stand_still_make_way_for_others_and_those_that_come_do_not() {
        let budget = Budget::new(4 << 10);
        let begun = |every: Duration| {
            let piece = Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1024]));
            let more = stream::unfold((), move |()| async move {
                tokio::time::sleep(every).await;
                Some((Ok(Bytes::from_static(b"x")), ()))
            });
            let (budget, body) = (budget.clone(), Body::from_stream(stream::iter([piece]).chain(more)));
            tokio::spawn(async move { read_all(body, 4096, &budget).await })
        };
        let (still, comes) = (begun(Duration::from_secs(25)), begun(Duration::from_millis(900)));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(read_all(pieces(2, 1024), 4096, &budget).await.is_ok(), "the one that stands still gives its room");
        assert_eq!(still.await.unwrap().unwrap_err().kind, ErrorKind::Timeout);
        assert!(!comes.is_finished());
        assert_eq!(read_all(pieces(4, 1024), 4096, &budget).await.unwrap_err().kind, ErrorKind::RateLimited);
    }

    #[tokio::test]
    async fn a_compressed_body_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        let error = read(&headers, Body::from("{}"), bounds(10), &shared()).await.unwrap_err();
        assert_eq!(error.param.as_deref(), Some("content-encoding"));
    }
}
