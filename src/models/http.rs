//! One file over HTTPS, in as many pieces as it takes. Redirects are followed here and nowhere else in this project, each
//! looked at first; a broken transfer goes on where it stopped, if the server can do that.

mod answer;

use super::{bar, store::Kept};
use answer::{Answered, Head};
use indicatif::ProgressBar;
use reqwest::{Client, Response, Url, header, redirect};
use secrecy::{ExposeSecret, SecretString};
use spillway_actors::{config::is_loopback, upstream::client::install_tls_provider};
use std::{
    fs::{self, File},
    io::Write,
    time::Duration,
};

const CONNECT: Duration = Duration::from_secs(20);
/// Silence inside a transfer.
const IDLE: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;
/// Attempts without a byte of progress.
const MAX_FAILURES: u32 = 4;
/// First wait after a failure; it doubles.
const BACKOFF: Duration = Duration::from_millis(500);
/// A file of unknown size larger than this is no model.
const MAX_BYTES: u64 = 1 << 40;

/// What is to be fetched, and what is known of it.
pub(super) struct Download<'a> {
    pub(super) address: &'a str,
    /// Shown to the address's own origin only.
    pub(super) token: Option<&'a SecretString>,
    pub(super) kept: &'a Kept,
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<&'a str>,
}

/// What was found out on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// What the server says the file's checksum is.
    pub(super) sha256: Option<String>,
    /// Part of it was there from an earlier attempt.
    pub(super) resumed: bool,
}

/// Why a transfer ended early.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt may do better.
    Passing(String),
    Final(String),
}

/// Fetches until the part is as long as it should be.
///
/// # Errors
/// In words. What was fetched so far is kept, if it can be gone on with.
pub(super) async fn download(order: &Download<'_>) -> Result<Found, String> {
    let client = client(order.address).map_err(|error| format!("no HTTP client: {error}"))?;
    let bar = bar::bar("fetching", order.bytes.unwrap_or(0));
    let mut found = Found { sha256: None, resumed: order.kept.partial().is_some_and(|bytes| bytes > 0) };
    let (mut failures, mut before) = (0, order.kept.partial());
    loop {
        let why = match attempt(order, &client, &bar, &mut found).await {
            Ok(()) => {
                bar.finish_and_clear();
                return Ok(found);
            }
            Err(Failure::Final(why)) => return Err(why),
            Err(Failure::Passing(why)) => why,
        };
        let now = order.kept.partial();
        failures = if now > before { 1 } else { failures + 1 };
        before = now;
        if failures >= MAX_FAILURES {
            let kept = now
                .filter(|bytes| *bytes > 0)
                .map(|bytes| format!("; {} are kept: run it again to go on", bar::bytes(bytes)));
            return Err(why + &kept.unwrap_or_default());
        }
        tokio::time::sleep(BACKOFF * (1 << failures)).await;
        found.resumed |= now.is_some_and(|bytes| bytes > 0);
    }
}

fn client(address: &str) -> reqwest::Result<Client> {
    install_tls_provider();
    let builder = Client::builder()
        .user_agent(concat!("spillway/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT)
        .read_timeout(IDLE);
    // What is on this machine needs neither a proxy nor certificates.
    if is_loopback(address) { builder.no_proxy().tls_certs_only([]).build() } else { builder.build() }
}

async fn attempt(order: &Download<'_>, client: &Client, bar: &ProgressBar, found: &mut Found) -> Result<(), Failure> {
    let have = order.kept.partial().unwrap_or(0);
    if have > 0 && order.bytes == Some(have) {
        return Ok(());
    }
    let etag = fs::read_to_string(order.kept.etag()).ok();
    // Without a way to tell whether it is still the same file, a part is worth nothing.
    let have = if order.sha256.is_some() || etag.is_some() { have } else { 0 };
    let (response, head) = ask(order, client, have, etag.as_deref()).await?;
    if head.sha256.is_some() {
        found.sha256.clone_from(&head.sha256);
    }
    match head.judge(have, order.bytes) {
        Answered::Whole => {
            found.resumed = false;
            order.kept.drop_part();
            note_etag(order.kept, &head);
            receive(order, response, bar, 0, head.total).await
        }
        Answered::Rest => receive(order, response, bar, have, head.total).await,
        Answered::Complete => Ok(()),
        Answered::StartOver => {
            order.kept.drop_part();
            Err(Failure::Passing("the server could not go on where it was cut".to_owned()))
        }
        Answered::Refused(failure) => Err(failure),
    }
}

fn note_etag(kept: &Kept, head: &Head) {
    match &head.etag {
        Some(etag) => drop(fs::write(kept.etag(), etag)),
        None => drop(fs::remove_file(kept.etag())),
    }
}

/// Asks for the file from byte `have` on, through redirects.
async fn ask(
    order: &Download<'_>,
    client: &Client,
    have: u64,
    etag: Option<&str>,
) -> Result<(Response, Head), Failure> {
    let wrong = |why: String| Failure::Final(why);
    let mut url = Url::parse(order.address).map_err(|error| wrong(format!("no address: {error}")))?;
    let home = url.origin();
    let mut said = Head::default();
    for _ in 0..=MAX_REDIRECTS {
        let mut request = client.get(url.clone());
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
            if let Some(etag) = etag {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        if let Some(token) = order.token.filter(|_| url.origin() == home) {
            request = request.bearer_auth(token.expose_secret());
        }
        let response = request.send().await.map_err(|error| Failure::Passing(broken(&error)))?;
        let head = Head::of(response.status().as_u16(), response.headers(), &said);
        if !response.status().is_redirection() {
            return Ok((response, head));
        }
        let next = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let next = next.ok_or_else(|| wrong("a redirect to nowhere".to_owned()))?;
        url = url.join(next).map_err(|error| wrong(format!("a redirect to no address: {error}")))?;
        let allowed = url.scheme() == "https" || (is_loopback(order.address) && is_loopback(url.as_str()));
        if !allowed {
            return Err(wrong("a redirect that leaves https is not followed".to_owned()));
        }
        said = head;
    }
    Err(wrong(format!("more than {MAX_REDIRECTS} redirects")))
}

/// Appends the body to the part. Never more than is due.
async fn receive(
    order: &Download<'_>,
    mut response: Response,
    bar: &ProgressBar,
    have: u64,
    total: Option<u64>,
) -> Result<(), Failure> {
    let kept = order.kept;
    let limit = order.bytes.or(total).unwrap_or(MAX_BYTES);
    if let Some(total) = order.bytes.or(total) {
        kept.check_room(total.saturating_sub(have)).map_err(Failure::Final)?;
        bar.set_length(total);
    }
    bar.set_position(have);
    let unwritable = |error: std::io::Error| Failure::Final(format!("{}: {error}", kept.part().display()));
    let mut file = File::options().create(true).append(true).open(kept.part()).map_err(unwritable)?;
    file.set_len(have).map_err(unwritable)?;
    let mut at = have;
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::Passing(broken(&error)))? {
        at += chunk.len() as u64;
        if at > limit {
            kept.drop_part();
            return Err(Failure::Final(format!(
                "the server sends more than the {limit} bytes that are due; nothing was kept"
            )));
        }
        file.write_all(&chunk).map_err(unwritable)?;
        bar.set_position(at);
    }
    match order.bytes.or(total) {
        Some(due) if at < due => Err(Failure::Passing(format!("the transfer ended at byte {at} of {due}"))),
        _ => Ok(()),
    }
}

/// What went wrong, without the address: it may carry a signature.
fn broken(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "the server went silent"
    } else if error.is_connect() {
        "the server cannot be reached"
    } else {
        "the transfer broke off"
    };
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    let mut last = None;
    while let Some(inner) = cause {
        last = Some(inner.to_string());
        cause = inner.source();
    }
    last.map_or_else(|| what.to_owned(), |last| format!("{what}: {last}"))
}
