//! A connection's bytes under a watch: who sends no header, or does not read what was sent to them, is cut. Knows bytes
//! and time only; what a request is, [`Exchange`] is told by others.

use super::Limits;
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

/// Whether a request is being answered on a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    answering: AtomicUsize,
    /// The connection's: when the answer has ended, the clock of the next request starts.
    reader: AtomicWaker,
}

impl Exchange {
    /// The header of a request is here. The exchange lasts until the value is dropped.
    pub(super) fn begin(&self) -> Answering {
        self.0.answering.fetch_add(1, Ordering::AcqRel);
        Answering(Arc::clone(&self.0))
    }

    fn is_under_way(&self) -> bool {
        self.0.answering.load(Ordering::Acquire) > 0
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Answering(Arc<Shared>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::AcqRel);
        self.0.reader.wake();
    }
}

/// An answer's body, which ends the exchange when it is dropped.
pub(super) struct Answer<B> {
    body: B,
    _answering: Answering,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, answering: Answering) -> Self {
        Self { body, _answering: answering }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A bound on one kind of waiting, armed when the waiting begins.
#[derive(Debug, Default)]
struct Bound {
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Bound {
    fn clear(&mut self) {
        self.running = false;
    }

    /// Begins, or goes on, waiting for at most `limit`; ready when it is over.
    fn poll_over(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.running {
            timer.as_mut().reset(Instant::now() + limit);
            self.running = true;
        }
        timer.as_mut().poll(cx)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// A header is expected: the connection is new, or its first byte came.
    Head,
    /// Between two requests.
    Idle,
    /// A request's body, or its client leaving: bounded by whoever answers.
    Request,
}

/// Why a connection was cut.
#[derive(Debug, thiserror::Error)]
enum Overdue {
    #[error("no whole header in time")]
    Header,
    #[error("no further request in time")]
    Idle,
    #[error("the client does not read")]
    StalledReader,
}

impl From<Overdue> for io::Error {
    fn from(overdue: Overdue) -> Self {
        Self::new(io::ErrorKind::TimedOut, overdue)
    }
}

/// The label of what cut a connection that ended with this error; `None` when its peer ended it, or was merely idle.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut error = Some(error);
    while let Some(each) = error {
        let inner = each.downcast_ref::<io::Error>().and_then(|error| error.get_ref()?.downcast_ref::<Overdue>());
        match inner {
            Some(Overdue::Header) => return Some("header"),
            Some(Overdue::StalledReader) => return Some("stalled_reader"),
            Some(Overdue::Idle) => return None,
            None => error = each.source(),
        }
    }
    None
}

/// A stream that may be a TCP connection underneath.
pub(super) trait Connection {
    /// What was written and not taken is forgotten when the connection is closed, instead of being kept for a peer that
    /// does not read.
    fn forget_unread(&self) {}
}

impl Connection for TcpStream {
    fn forget_unread(&self) {
        #[cfg(target_os = "linux")]
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl Connection for tokio_rustls::server::TlsStream<TcpStream> {
    fn forget_unread(&self) {
        self.get_ref().0.forget_unread();
    }
}

/// A stream that fails with `TimedOut` when its peer makes it wait too long.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    exchange: Exchange,
    limits: Limits,
    reading: Reading,
    header: Bound,
    writing: Bound,
}

impl<S: Connection> Watched<S> {
    pub(super) fn new(stream: S, exchange: Exchange, limits: Limits) -> Self {
        let (header, writing) = (Bound::default(), Bound::default());
        Self { stream, exchange, limits, reading: Reading::Head, header, writing }
    }

    /// What a reading that is tried now waits for.
    fn turn(&mut self) {
        let now = match (self.exchange.is_under_way(), self.reading) {
            (true, _) => Reading::Request,
            (false, Reading::Request) => Reading::Idle,
            (false, before) => before,
        };
        if now != self.reading {
            self.header.clear();
            self.reading = now;
        }
    }

    fn poll_read_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (limit, what) = match self.reading {
            Reading::Request => return Poll::Pending,
            Reading::Head => (self.limits.header, Overdue::Header),
            Reading::Idle => (self.limits.idle, Overdue::Idle),
        };
        self.header.poll_over(limit, cx).map(|()| what.into())
    }

    /// What a write that could, or could not, be done now means.
    fn judge<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing.clear();
            return written;
        }
        if self.writing.poll_over(self.limits.stalled_reader, cx).is_pending() {
            return Poll::Pending;
        }
        self.stream.forget_unread();
        Poll::Ready(Err(Overdue::StalledReader.into()))
    }
}

impl<S: AsyncRead + Connection + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.exchange.0.reader.register(cx.waker());
        this.turn();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_pending() {
            return this.poll_read_overdue(cx).map(Err);
        }
        if this.reading == Reading::Idle && buffer.filled().len() > before {
            this.header.clear();
            this.reading = Reading::Head;
        }
        read
    }
}

impl<S: AsyncWrite + Connection + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.judge(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
        this.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.judge(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closed = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.judge(closed, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    impl Connection for DuplexStream {}

    const SECOND: Duration = Duration::from_secs(1);

    fn pair(buffer: usize) -> (Watched<DuplexStream>, DuplexStream, Exchange) {
        let (ours, theirs) = duplex(buffer);
        let exchange = Exchange::default();
        let limits =
            Limits { header: SECOND * 10, idle: SECOND * 75, stalled_reader: SECOND * 20, ..Limits::default() };
        (Watched::new(ours, exchange.clone(), limits), theirs, exchange)
    }

    async fn read_fails_after(stream: &mut Watched<DuplexStream>) -> Duration {
        let began = Instant::now();
        let error = loop {
            match stream.read_u8().await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_in_drops_is_cut_when_its_time_is_up_however_steadily_it_drips() {
        let (mut ours, mut theirs, _) = pair(64);
        let dripping = async {
            while theirs.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SECOND / 3).await;
            }
        };
        let took = tokio::select! { took = read_fails_after(&mut ours) => took, () = dripping => unreachable!() };
        assert!(took >= SECOND * 10 && took < SECOND * 11, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_there_is_more_time_and_within_one_none_is_counted_here() {
        let (mut ours, mut theirs, exchange) = pair(64);
        theirs.write_all(b"x").await.unwrap();
        ours.read_u8().await.unwrap();
        let answering = exchange.begin();
        assert!(tokio::time::timeout(SECOND * 3600, ours.read_u8()).await.is_err(), "the answer may take its time");
        drop(answering);
        assert_eq!(read_fails_after(&mut ours).await, SECOND * 75);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_of_the_next_request_starts_the_clock_of_its_header() {
        let (mut ours, mut theirs, exchange) = pair(64);
        let answering = exchange.begin();
        assert!(tokio::time::timeout(SECOND, ours.read_u8()).await.is_err());
        drop(answering);
        let (took, ()) = tokio::join!(read_fails_after(&mut ours), async {
            tokio::time::sleep(SECOND * 70).await;
            theirs.write_all(b"G").await.unwrap();
        });
        assert_eq!(took, SECOND * 80);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_is_cut_and_one_that_is_slow_is_not() {
        let (mut ours, mut theirs, _) = pair(16);
        let began = Instant::now();
        let reading = async {
            for _ in 0..10 {
                tokio::time::sleep(SECOND * 15).await;
                theirs.read_exact(&mut [0; 16]).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let writing = async {
            loop {
                if let Err(error) = ours.write_all(&[0; 16]).await {
                    break error;
                }
            }
        };
        let error = tokio::select! { error = writing => error, () = reading => unreachable!() };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), SECOND * (150 + 20));
    }
}
