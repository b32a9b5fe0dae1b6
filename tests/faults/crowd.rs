//! F20: clients that drip, stall, do not read, or come all at once. Others are served as if they were not there, and what
//! they hold is bounded in time and memory. `spillway bench edge` measures the same at full size.

use crate::support::{Ask, Gateway, Record, Setup, poll::until};
use spillway::sim::SimOptions;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::Instant,
};

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.api.trim_start_matches("http://")).await.expect("the API listens")
}

/// A client that takes in next to nothing.
async fn connect_narrow(gateway: &Gateway) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(gateway.api.trim_start_matches("http://").parse().unwrap()).await.expect("the API listens")
}

fn post(body: &str) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let asked = gateway.client.raw().get(gateway.admin_url("/metrics")).send().await.unwrap();
    let text = asked.text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Ordinary requests, one after the other: how long the slowest took.
async fn slowest_of(gateway: &Gateway, count: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let began = Instant::now();
        gateway.client.ask(&gateway.api, Ask::hard().model("other").max_tokens(4)).await.assert_complete();
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_headers_that_drip_are_cut_and_nobody_else_notices() {
    const DRIPPING: usize = 200;
    let gateway = Setup::default().without_local().server("header_timeout_ms = 2000\n").start().await;
    let before = gateway.resident_bytes();
    let mut dripping = JoinSet::new();
    for _ in 0..DRIPPING {
        let mut socket = connect(&gateway).await;
        dripping.spawn(async move {
            let _ = socket.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: ").await;
            let mut piece = [0; 64];
            loop {
                let _ = socket.write_all(b"x").await;
                match tokio::time::timeout(Duration::from_millis(200), socket.read(&mut piece)).await {
                    Err(_) => {}
                    Ok(Ok(count)) if count > 0 => {}
                    Ok(_) => return,
                }
            }
        });
    }
    assert!(slowest_of(&gateway, 20).await < Duration::from_secs(1), "others are served");
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{DRIPPING} headers cost {grown} bytes");
    let all = tokio::time::timeout(Duration::from_secs(10), dripping.join_all()).await;
    assert!(all.is_ok(), "every one of them is cut");
    assert_eq!(metric(&gateway, "spillway_connections_cut_total{cause=\"header\"}").await, DRIPPING as u64);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_a_client_that_does_not_read_is_cut_its_place_freed_and_its_attempt_settled() {
    const STALLED: usize = 20;
    let endless = SimOptions { tokens: 50_000, ..SimOptions::default() };
    let setup = Setup::default().without_local().cloud(endless).server("stalled_reader_timeout_ms = 1000\n");
    let gateway = setup.start().await;
    let before = gateway.resident_bytes();
    let body = r#"{"model":"ok","stream":true,"max_tokens":50000,"messages":[{"role":"user","content":"hi"}]}"#;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut socket = connect_narrow(&gateway).await;
        socket.write_all(post(body).as_bytes()).await.unwrap();
        stalled.push(socket);
    }
    gateway
        .until_status("all are admitted", Duration::from_secs(10), |status| status.requests.admitted == STALLED as u64)
        .await;
    assert!(slowest_of(&gateway, 5).await < Duration::from_secs(3), "others are served");
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 24 << 20, "{STALLED} clients that do not read cost {grown} bytes");
    let status =
        gateway.until_status("all are cut", Duration::from_secs(15), |status| status.requests.running == 0).await;
    assert_eq!(status.requests.ended.get("client_gone"), Some(&(STALLED as u64)), "{status:?}");
    assert_eq!(metric(&gateway, "spillway_connections_cut_total{cause=\"stalled_reader\"}").await, STALLED as u64);
    until("the provider's sockets are closed", Duration::from_secs(5), || async {
        let arrived = gateway.cloud().arrived().await;
        arrived
            .iter()
            .filter(|arrived| arrived.model == "ok")
            .all(|arrived| arrived.outcome == "client_gone")
            .then_some(())
    })
    .await;
    let rows = gateway.client.get_json(&gateway.admin_url("/admin/usage/attempts")).await.unwrap();
    let rows = rows["attempts"].as_array().unwrap();
    let abandoned = rows.iter().filter(|row| row["model"] == "ok").count();
    assert_eq!(abandoned, STALLED, "each is in the ledger");
    drop(stalled);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_an_upload_that_stalls_is_answered_408_and_holds_no_place() {
    let gateway = Setup { max_inflight: 2, ..Setup::default().without_local().server("upload_timeout_ms = 700\n") };
    let gateway = gateway.start().await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut socket = connect(&gateway).await;
        socket
            .write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{\"a\":")
            .await
            .unwrap();
        stalled.push(socket);
    }
    assert!(slowest_of(&gateway, 5).await < Duration::from_secs(1), "others are admitted");
    for mut socket in stalled {
        let mut answer = vec![0; 1024];
        let read = tokio::time::timeout(Duration::from_secs(10), socket.read(&mut answer)).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..read.unwrap()]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_ten_times_too_many_requests_are_refused_at_once_and_told_when_to_come_back() {
    const PLACES: usize = 8;
    let setup = Setup { max_inflight: PLACES as u32, ..Setup::default().without_local() };
    let gateway = setup.start().await;
    gateway.cloud().fault("*", "hang").await;
    let mut asking = JoinSet::new();
    for _ in 0..10 * PLACES {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        asking.spawn(async move {
            let began = Instant::now();
            let record = client.ask(&api, Ask::hard()).await;
            (began.elapsed(), record)
        });
    }
    let mut refusals: Vec<(Duration, Record)> = Vec::new();
    while refusals.len() < 9 * PLACES {
        let next = tokio::time::timeout(Duration::from_secs(20), asking.join_next()).await;
        refusals.push(next.expect("the refused are told at once").expect("somebody asks").expect("no panic"));
    }
    for (took, record) in &refusals {
        assert_eq!(record.status, Some(429), "{record:#?}");
        assert!(record.headers.contains_key("retry-after"), "{record:#?}");
        // The promise of 20 ms is for a machine with a processor to spare; see `spillway bench edge`.
        assert!(*took < Duration::from_secs(2), "{took:?}");
    }
    asking.shutdown().await;
    gateway.shutdown().await;
}
