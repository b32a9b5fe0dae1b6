//! Over real sockets: graceful ends and impatience.

use super::*;
use axum::routing::get;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    time::{Instant, timeout},
};

const PATIENCE: Duration = Duration::from_secs(5);

struct Server {
    address: SocketAddr,
    /// Told when a request to `/slow` has arrived.
    arrived: Arc<Notify>,
    /// Lets it answer.
    release: Arc<Notify>,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

async fn start(limits: Limits) -> Server {
    start_with(usize::from(u16::MAX), Door { limits, tls: None }).await
}

async fn start_with(connections: usize, door: Door) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (arrived, release) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&release));
    let slow = get(async move || {
        tell.notify_one();
        wait.notified().await;
        "slow"
    });
    let router = Router::new().route("/", get(|| async { "ok" })).route("/slow", slow);
    let ended = task::detached(serve(listener, router, shutdown.clone(), connections, move || door.clone()));
    Server { address, arrived, release, shutdown, ended }
}

async fn ask(socket: &mut TcpStream, path: &str) {
    socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
}

async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    while !String::from_utf8_lossy(&text).ends_with(end) {
        let count = timeout(PATIENCE, socket.read(&mut piece)).await.unwrap().unwrap();
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn at_shutdown_open_answers_end_and_idle_and_fresh_connections_close() {
    let server = start(Limits::default()).await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let _fresh = TcpStream::connect(server.address).await.unwrap();
    ask(&mut idle, "/").await;
    read_until(&mut idle, "ok").await;
    ask(&mut idle, "/").await;
    read_until(&mut idle, "ok").await;
    ask(&mut busy, "/slow").await;
    server.arrived.notified().await;
    server.shutdown.cancel();
    assert_eq!(timeout(PATIENCE, idle.read(&mut [0; 8])).await.unwrap().unwrap(), 0, "the idle one is closed");
    server.release.notify_one();
    read_until(&mut busy, "slow").await;
    timeout(Duration::from_secs(2), server.ended).await.expect("served to the end").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_header_that_never_ends_closes_the_connection() {
    let limits = Limits { header: Duration::from_millis(100), ..Limits::default() };
    let server = start(limits).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    let began = Instant::now();
    let mut rest = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(90));
    server.shutdown.cancel();
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_for_a_place() {
    let server = start_with(1, Door::default()).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    ask(&mut first, "/").await;
    read_until(&mut first, "ok").await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    ask(&mut second, "/").await;
    assert!(timeout(Duration::from_millis(100), second.read(&mut [0; 8])).await.is_err(), "not served yet");
    drop(first);
    read_until(&mut second, "ok").await;
    server.shutdown.cancel();
}

#[tokio::test]
async fn dropping_the_server_cuts_what_is_open() {
    let server = start(Limits::default()).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    ask(&mut socket, "/slow").await;
    server.arrived.notified().await;
    server.ended.abort();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "cut before the answer");
}

#[tokio::test]
async fn an_address_that_has_its_share_of_connections_gets_no_more() {
    let server = start(Limits { per_address: 1, ..Limits::default() }).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    ask(&mut first, "/").await;
    read_until(&mut first, "ok").await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let _ = second.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, second.read_to_end(&mut rest)).await.expect("closed at once");
    assert!(rest.is_empty());
    server.shutdown.cancel();
}

#[tokio::test]
async fn too_many_headers_and_too_long_ones_are_refused() {
    let server = start(Limits { headers: 10, header_bytes: 8192, ..Limits::default() }).await;
    for header in ["a: b\r\n".repeat(11), format!("a: {}\r\n", "b".repeat(9000))] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{header}\r\n").as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    }
    server.shutdown.cancel();
}

#[tokio::test]
async fn a_connection_is_kept_between_requests_for_longer_than_a_header_may_take() {
    let limits = Limits { header: Duration::from_millis(50), idle: Duration::from_millis(400), ..Limits::default() };
    let server = start(limits).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        ask(&mut socket, "/").await;
        read_until(&mut socket, "ok").await;
        // The time itself is what is tested.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(timeout(PATIENCE, socket.read(&mut [0; 8])).await.unwrap().unwrap(), 0, "idle for too long");
    server.shutdown.cancel();
}
