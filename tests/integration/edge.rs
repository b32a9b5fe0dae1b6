//! The door: TLS and its renewal, pages of other sites, redirects and URLs that are never followed, the second signal.

use crate::support::{
    Ask, Outcome, Setup,
    client::Client,
    poll::until,
    rude::{self, Rude},
    setup::Folder,
};
use reqwest::{Method, header};
use rustix::process::Signal;
use serde_json::json;
use spillway::sim::SimOptions;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

const SOON: Duration = Duration::from_secs(5);

/// A certificate for loopback and its key, as PEM.
fn identity() -> (String, String) {
    let made =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn tls(folder: &Folder, (cert, key): &(String, String)) -> String {
    let (cert, key) = (folder.write("cert.pem", cert.as_bytes()), folder.write("key.pem", key.as_bytes()));
    format!("tls_cert_file = \"{}\"\ntls_key_file = \"{}\"\n", cert.display(), key.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_the_api_speaks_tls_and_a_renewed_one_is_taken_over() {
    let folder = Folder::new().unwrap();
    let first = identity();
    let lines = tls(&folder, &first) + "reload_poll_ms = 0\nheader_timeout_ms = 1500\n";
    let gateway = Setup::default().without_local().server(&lines).start_tls(&first.0).await;
    assert!(gateway.api.starts_with("https://") && gateway.admin.starts_with("http://"), "{}", gateway.api);
    let body = json!({"model": "ok", "messages": [{"role": "user", "content": "hi"}], "stream": true});
    let ask = async |client: &Client| {
        client.raw().post(gateway.url("/v1/chat/completions")).json(&body).send().await?.text().await
    };
    let text = ask(&Client::trusting(&first.0)).await.expect("an answer over TLS");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    // Plain HTTP, nonsense and silence end their own connection only.
    for bytes in [&b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"\x16\x03\x01\0\x05nonsense", b""] {
        let mut socket = TcpStream::connect(gateway.api.trim_start_matches("https://")).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let end = async { while socket.read(&mut [0; 512]).await.is_ok_and(|count| count > 0) {} };
        tokio::time::timeout(SOON, end).await.expect("the connection is ended");
    }
    // Renewed: the old connection's client trusts only the old one.
    let second = identity();
    tls(&folder, &second);
    gateway.signal(Signal::HUP);
    let renewed = Client::trusting(&second.0);
    until("the new certificate is served", SOON, || async { ask(&renewed).await.ok() }).await;
    assert!(ask(&Client::trusting(&first.0)).await.is_err());
    // One that does not fit its key: the last good one stays.
    folder.write("key.pem", first.1.as_bytes());
    gateway.signal(Signal::HUP);
    until("the fault is told", SOON, || async { gateway.logged("last good one stays").then_some(()) }).await;
    assert!(ask(&renewed).await.is_ok());
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_refused_unless_listed_and_a_listed_page_gets_what_a_browser_needs() {
    const PAGE: &str = "https://chat.example";
    let server = format!("cors_origins = [\"{PAGE}\"]\n");
    let gateway = Setup::default().without_local().server(&server).start().await;
    let send = async |method: Method, origin: &str, asks: bool| {
        let mut request = gateway.client.raw().request(method, gateway.url("/v1/chat/completions"));
        request = request.header(header::ORIGIN, origin).json(&Ask::hard().body);
        if asks {
            request = request.header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST");
            request = request.header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type");
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.headers().clone())
    };
    let (status, headers) = send(Method::OPTIONS, PAGE, true).await;
    assert_eq!(status, 204, "{headers:?}");
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], PAGE);
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_HEADERS], "authorization,content-type");
    assert!(headers[header::ACCESS_CONTROL_ALLOW_METHODS].to_str().unwrap().contains("POST"));
    let (status, headers) = send(Method::POST, PAGE, false).await;
    assert_eq!((status, headers[header::ACCESS_CONTROL_ALLOW_ORIGIN].to_str().unwrap()), (200, PAGE));
    assert!(headers[header::VARY].to_str().unwrap().contains("origin"));
    assert!(headers[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap().contains("x-request-id"));
    for (origin, asks, expected) in [
        ("https://evil.example", true, 403),
        ("https://evil.example", false, 403),
        ("null", false, 403),
        // A page of this machine that is not listed may ask, but no browser will show it the answer.
        ("http://localhost:3000", true, 405),
        ("http://localhost:3000", false, 200),
    ] {
        let (status, headers) = send(if asks { Method::OPTIONS } else { Method::POST }, origin, asks).await;
        assert_eq!(status, expected, "{origin}");
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{origin}");
    }
    // The admin listener knows no pages at all.
    let asked = gateway.client.raw().get(gateway.admin_url("/admin/status")).header(header::ORIGIN, PAGE).send().await;
    assert_eq!(asked.unwrap().status().as_u16(), 403);
    gateway.shutdown().await;
}

/// The gateway behind stands for a provider that speaks TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_over_tls_must_be_known_to_this_hosts_certificates() {
    let folder = Folder::new().unwrap();
    let identity = identity();
    let behind = Setup::default().without_local().server(&tls(&folder, &identity)).start_tls(&identity.0).await;
    let provider = format!(
        "\n[[cloud]]\nname = \"secure\"\nbase_url = \"{}/v1\"\napi_keys_env = [\"{}\"]\n\
         [[cloud.models]]\nname = \"secure-model\"\nupstream = \"ok\"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n",
        behind.api,
        crate::support::setup::KEY_VAR
    );
    let known = vec![("SSL_CERT_FILE".to_owned(), folder.path().join("cert.pem").display().to_string())];
    for (vars, is_known) in [(known, true), (Vec::new(), false)] {
        let setup = Setup { vars, ..Setup::default() };
        let gateway = setup.without_local().extra(&provider).start().await;
        let record = gateway.client.ask(&gateway.api, Ask::hard().model("secure-model").stream()).await;
        if is_known {
            assert_eq!(record.assert_complete().target(), "secure");
        } else {
            assert!(matches!(record.outcome, Outcome::Error { status: 502, .. }), "{record:#?}");
        }
        gateway.shutdown().await;
    }
    assert_eq!(behind.cloud().arrived().await.len(), 1, "who is not known is told nothing");
    behind.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_of_a_provider_is_never_followed() {
    let elsewhere = Rude::start(|_| rude::reply("200 OK", "", "{}")).await;
    let target = format!("location: http://{}/v1/chat/completions\r\n", elsewhere.addr);
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let target = target.clone();
        let redirecting = Rude::start(move |_| rude::reply(status, &target, "")).await;
        let setup = Setup::default().without_local().extra(&redirecting.provider("redirecting"));
        let gateway = setup.start().await;
        let record = gateway.client.ask(&gateway.api, Ask::hard().model("redirecting-model")).await;
        assert!(matches!(record.outcome, Outcome::Error { status: 502, .. }), "{status}: {record:#?}");
        assert!(!redirecting.heard().is_empty(), "{status}");
        gateway.shutdown().await;
    }
    assert_eq!(elsewhere.heard(), Vec::<String>::new(), "neither key nor prompt went there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_url_of_a_user_is_ever_fetched() {
    let bait = Rude::start(|_| rude::reply("200 OK", "content-type: image/png\r\n", "no image")).await;
    let gateway = Setup::default().warm().await;
    let image = |url: &str| {
        let parts =
            json!([{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": url}}]);
        Ask::chat("").with("messages", json!([{"role": "user", "content": parts}]))
    };
    let remote = format!("http://{}/image.png", bait.addr);
    let local = gateway.client.ask(&gateway.api, image(&remote).model("local")).await;
    assert!(local.status.is_some_and(|status| (400..500).contains(&status)), "{local:#?}");
    assert_eq!(local.faults, Vec::<String>::new(), "{local:#?}");
    // A provider may fetch what it is given; the gateway hands it on and looks at nothing.
    let cloud = gateway.client.ask(&gateway.api, image(&remote).model("ok")).await;
    assert_eq!(cloud.assert_complete().target(), "sim");
    for url in ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "gopher://x"] {
        let record = gateway.client.ask(&gateway.api, image(url).model("local")).await;
        assert!(record.status.is_some_and(|status| (400..500).contains(&status)), "{url}: {record:#?}");
    }
    assert_eq!(bait.heard(), Vec::<String>::new());
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_a_second_signal_ends_the_drain_at_once_and_in_good_order() {
    let slow = SimOptions { tokens: 5000, tokens_per_second: Some(20.0), ..SimOptions::default() };
    let gateway = Setup::default().without_local().cloud(slow).start().await;
    let (client, api) = (gateway.client.clone(), gateway.api.clone());
    let mut streaming = tokio::task::JoinSet::new();
    streaming.spawn(async move { client.ask(&api, Ask::hard().max_tokens(5000).stream()).await });
    gateway.until_status("it streams", SOON, |status| status.requests.running == 1).await;
    gateway.signal(Signal::TERM);
    gateway.until_status("it drains", SOON, |status| status.draining).await;
    let began = Instant::now();
    gateway.signal(Signal::INT);
    let exit = gateway.until_ended().await;
    assert_eq!(exit.code(), Some(0), "{}", gateway.log_tail());
    assert!(began.elapsed() < Duration::from_secs(10), "the drain of 30 s was not waited for");
    let record = streaming.join_next().await.unwrap().unwrap();
    assert!(matches!(record.outcome, Outcome::Error { .. }), "an error frame, no silent cut: {record:#?}");
    assert_eq!(record.faults, Vec::<String>::new(), "{record:#?}");
}
