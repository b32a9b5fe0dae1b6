//! Clients that behave badly, over plain sockets.

use spillway_actors::task::{self, Owned};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

/// Connections opened at once: more than a listener's backlog holds would be retried after a second.
const WAVE: usize = 100;
/// What a client that does not read offers to take in: as little as the kernel allows.
const STALLED_WINDOW: u32 = 4096;
/// Between two bytes of a header.
const DRIP: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// A request as it goes over the wire.
pub(super) fn post(key: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         authorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn socket(address: &str, window: Option<u32>) -> Option<TcpStream> {
    let address = tokio::net::lookup_host(address).await.ok()?.next()?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.ok()?;
    if let Some(window) = window {
        let _ = socket.set_recv_buffer_size(window);
    }
    let stream = tokio::time::timeout(PATIENCE, socket.connect(address)).await.ok()?.ok()?;
    let _ = stream.set_nodelay(true);
    Some(stream)
}

/// Bad company, until it leaves.
pub(super) struct Company {
    members: Vec<Owned>,
}

impl Company {
    /// Everybody is connected, and every stalled reader has asked, when it returns. Whoever is cut comes back.
    pub(super) async fn gather(address: &str, slowloris: u32, asked: &str, stalled: u32) -> Self {
        let (ready, mut arrived) = tokio::sync::mpsc::channel(64);
        let mut members = Vec::new();
        for number in 0..slowloris + stalled {
            let (address, asked, ready) = (address.to_owned(), asked.to_owned(), ready.clone());
            members.push(task::owned(async move {
                // Nobody drips in step with the others.
                let first = DRIP * (number % WAVE as u32) / WAVE as u32;
                loop {
                    if number < slowloris {
                        drip(&address, &ready, first).await;
                    } else {
                        stall(&address, &asked, &ready).await;
                    }
                }
            }));
            // In waves, as above.
            if members.len() % WAVE == 0 {
                for _ in 0..WAVE {
                    let _ = tokio::time::timeout(PATIENCE, arrived.recv()).await;
                }
            }
        }
        members.push(task::owned(async move { while arrived.recv().await.is_some() {} }));
        Self { members }
    }

    /// And gives the gateway a moment to notice.
    pub(super) async fn leave(self) {
        drop(self.members);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// A header in drops, until the connection is cut.
async fn drip(address: &str, ready: &tokio::sync::mpsc::Sender<()>, first: Duration) {
    let Some(mut socket) = socket(address, None).await else { return tokio::time::sleep(DRIP).await };
    let _ = socket.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-drip: ").await;
    let _ = ready.send(()).await;
    tokio::time::sleep(first).await;
    while socket.write_all(b"x").await.is_ok() {
        tokio::time::sleep(DRIP).await;
    }
}

/// A request whose answer nobody reads, until the connection is cut.
async fn stall(address: &str, asked: &str, ready: &tokio::sync::mpsc::Sender<()>) {
    let Some(mut socket) = socket(address, Some(STALLED_WINDOW)).await else { return tokio::time::sleep(DRIP).await };
    let _ = socket.write_all(asked.as_bytes()).await;
    let _ = ready.send(()).await;
    // Readiness without reading: it tells of the end, not of data, once the first byte is there.
    loop {
        tokio::time::sleep(DRIP).await;
        if is_cut(&socket) {
            return;
        }
    }
}

fn is_cut(socket: &TcpStream) -> bool {
    socket.take_error().is_ok_and(|error| error.is_some())
}

/// What came back for one request.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) retry_after: bool,
    pub(super) took: Duration,
}

/// Sends it on a connection of its own and reads the head of the answer; `None`: none came. The connection stays open as
/// long as its value: nobody reads the rest.
pub(super) async fn ask(address: &str, request: &str) -> Option<(Reply, TcpStream)> {
    let mut socket = socket(address, Some(STALLED_WINDOW)).await?;
    let began = Instant::now();
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    let mut piece = [0; 2048];
    let mut took = None;
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = tokio::time::timeout(PATIENCE, socket.read(&mut piece)).await.ok()?.ok()?;
        if count == 0 {
            return None;
        }
        took.get_or_insert_with(|| began.elapsed());
        head.extend_from_slice(piece.get(..count)?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((Reply { status, retry_after: head.contains("\r\nretry-after:"), took: took? }, socket))
}
