//! The connection to the admin listener: history, then a picture a second, the newest requests every other second. Says when there
//! is none, and goes on trying, ever more rarely.

use super::picture::{Picture, Request, Sample};
use crate::{
    call,
    chat::clean::{deepest, one_line},
    cli::WANTS_TOKEN,
};
use futures_util::StreamExt;
use reqwest::{Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use spillway_actors::{
    cloud::sse::{SseEvent, SseParser},
    task::{self, Owned},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc};

const CONNECT: Duration = Duration::from_secs(5);
/// A gateway that says nothing for so long is not there.
const SILENCE: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// For anything that is asked, from the question to the last byte, and for the next event: pictures come once a second, and a drip
/// of bytes is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer: a hundred requests are a fraction of it.
const MAX_ANSWER_BYTES: usize = 8 << 20;
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Of the newest.
const REQUESTS: &str = "/admin/requests?limit=100";
const EVENTS: &str = "/admin/events";
/// News not yet taken in.
const BACKLOG: usize = 8;

/// What there is to know.
#[derive(Debug)]
pub(super) enum News {
    History(Vec<Sample>),
    Picture(Box<Picture>),
    Requests(Vec<Request>),
    Lost { why: String, retry_in: Duration },
}

#[derive(Deserialize)]
struct History {
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Newest {
    requests: Vec<Request>,
}

impl News {
    /// `name`: the event's, or `requests`.
    pub(super) fn read(name: &str, data: &Value) -> Result<Self, String> {
        let unreadable = |error: serde_json::Error| format!("{name} is not as expected: {error}");
        Ok(match name {
            "history" => Self::History(History::deserialize(data).map_err(unreadable)?.samples),
            "picture" => Self::Picture(Box::new(Picture::deserialize(data).map_err(unreadable)?)),
            "requests" => Self::Requests(Newest::deserialize(data).map_err(unreadable)?.requests),
            other => return Err(format!("an event {other} that nobody knows")),
        })
    }
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub(super) struct Admin {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
    patience: Duration,
}

impl Admin {
    pub(super) fn new(url: &str, token: Option<SecretString>) -> Result<Self, String> {
        let http = call::client(url).connect_timeout(CONNECT).read_timeout(SILENCE).build();
        let http = http.map_err(|error| format!("no HTTP client can be made here: {error}"))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token, patience: PATIENCE })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A history, a picture and the newest requests.
    pub(super) async fn once(&self) -> Result<(Value, Value, Value), String> {
        let mut events = Events::of(self.get(EVENTS).await?);
        let (mut history, mut picture) = (None, None);
        while let (true, Some(event)) = (picture.is_none(), events.next().await?) {
            let data: Value = serde_json::from_str(&event.data).map_err(|error| format!("no JSON: {error}"))?;
            match event.name.as_deref() {
                Some("history") => history = Some(data),
                Some("picture") => picture = Some(data),
                _ => {}
            }
        }
        let history = history.unwrap_or_else(|| serde_json::json!({"samples": []}));
        let picture = picture.ok_or("it closed the connection before a picture came")?;
        Ok((history, picture, self.requests().await?))
    }

    async fn requests(&self) -> Result<Value, String> {
        let asking = async {
            let body = call::body(self.get(REQUESTS).await?, MAX_ANSWER_BYTES).await?;
            serde_json::from_slice(&body).map_err(|error| format!("no JSON: {error}"))
        };
        self.in_time(asking).await
    }

    async fn in_time<T>(&self, asking: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        tokio::time::timeout(self.patience, asking).await.unwrap_or_else(|_| Err(LATE.to_owned()))
    }

    async fn get(&self, path: &str) -> Result<Response, String> {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let response = request.send().await.map_err(|error| why(&error))?;
        if let Some(elsewhere) = call::elsewhere(&response) {
            return Err(elsewhere);
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED => Err(format!("it {WANTS_TOKEN}")),
            StatusCode::NOT_FOUND => Err("this is no admin listener (the API's port?)".to_owned()),
            status => {
                let body = call::body(response, MAX_ERROR_BYTES).await.unwrap_or_default();
                let object: Value = serde_json::from_slice(&body).unwrap_or_default();
                Err(format!(
                    "{}: {}",
                    status.as_u16(),
                    one_line(object["error"]["message"].as_str().unwrap_or("refused"))
                ))
            }
        }
    }

    /// Reads until the connection ends; `Ok(true)`: a picture came, so the wait begins anew.
    async fn follow(&self, news: &mpsc::Sender<News>) -> (bool, String) {
        let mut events = match self.in_time(self.get(EVENTS)).await {
            Ok(response) => Events::of(response),
            Err(why) => return (false, why),
        };
        let mut pictures = 0u64;
        loop {
            let told = match self.in_time(events.next()).await {
                Ok(Some(event)) => self.told(&event, &mut pictures, news).await,
                Ok(None) => Err("it closed the connection".to_owned()),
                Err(why) => Err(why),
            };
            if let Err(why) = told {
                return (pictures > 0, why);
            }
        }
    }

    async fn told(&self, event: &SseEvent, pictures: &mut u64, news: &mpsc::Sender<News>) -> Result<(), String> {
        let name = event.name.as_deref().unwrap_or_default();
        let data: Value = serde_json::from_str(&event.data).map_err(|error| format!("no JSON: {error}"))?;
        tell(news, News::read(name, &data)?).await?;
        if name == "picture" {
            if pictures.is_multiple_of(2) {
                tell(news, News::read("requests", &self.requests().await?)?).await?;
            }
            *pictures += 1;
        }
        Ok(())
    }
}

async fn tell(to: &mpsc::Sender<News>, news: News) -> Result<(), String> {
    to.send(news).await.map_err(|_| "nobody watches any more".to_owned())
}

/// The gateway, followed for as long as this is kept.
pub(super) struct Feed {
    pub(super) news: mpsc::Receiver<News>,
    /// Told: try again now.
    pub(super) retry: Arc<Notify>,
    _following: Owned,
}

impl Feed {
    pub(super) fn of(admin: Admin) -> Self {
        let (sender, news) = mpsc::channel(BACKLOG);
        let retry = Arc::new(Notify::new());
        let _following = task::owned(follow(admin, sender, Arc::clone(&retry)));
        Self { news, retry, _following }
    }
}

async fn follow(admin: Admin, news: mpsc::Sender<News>, retry: Arc<Notify>) {
    let mut wait = FIRST_WAIT;
    loop {
        let (was_live, why) = admin.follow(&news).await;
        if was_live {
            wait = FIRST_WAIT;
        }
        if news.send(News::Lost { why, retry_in: wait }).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = retry.notified() => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The events of a body.
struct Events {
    bytes: futures_util::stream::BoxStream<'static, reqwest::Result<axum::body::Bytes>>,
    parser: SseParser,
}

impl Events {
    fn of(response: Response) -> Self {
        Self { bytes: response.bytes_stream().boxed(), parser: SseParser::new() }
    }

    /// `None`: the body has ended.
    async fn next(&mut self) -> Result<Option<SseEvent>, String> {
        loop {
            if let Some(event) = self.parser.next_event().map_err(|error| error.to_string())? {
                return Ok(Some(event));
            }
            match self.bytes.next().await {
                None => return Ok(None),
                Some(piece) => {
                    let piece = piece.map_err(|error| why(&error))?;
                    self.parser.push(&piece).map_err(|error| error.to_string())?;
                }
            }
        }
    }
}

const LATE: &str = "it does not answer in time";

fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() { LATE.to_owned() } else { deepest(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::{pointing, server};
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    fn admin(url: &str) -> Admin {
        Admin { patience: Duration::from_millis(300), ..Admin::new(url, None).unwrap() }
    }

    /// A server that says so much, and then a byte every 20 ms for as long as somebody listens.
    fn dripping(beginning: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut socket in listener.incoming().map_while(Result::ok) {
                // Who answers before it was asked is taken for broken.
                let _ = socket.read(&mut [0; 4096]);
                let _ = socket.write_all(beginning.as_bytes());
                while socket.write_all(b" ").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        url
    }

    #[tokio::test]
    async fn a_drip_of_bytes_is_no_answer_and_no_event() {
        let url = dripping("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        assert_eq!(admin(&url).requests().await, Err(LATE.to_owned()));
        let (sender, _news) = mpsc::channel(1);
        assert_eq!(admin(&url).follow(&sender).await, (false, LATE.to_owned()));
        let head = dripping("HTTP/1.1 200 OK\r\nx: ");
        assert_eq!(admin(&head).follow(&sender).await, (false, LATE.to_owned()));
    }

    #[tokio::test]
    async fn an_answer_is_bounded_a_redirect_told_and_a_missing_token_named() {
        let long = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", " ".repeat(MAX_ANSWER_BYTES + 1));
        let patient = Admin { patience: PATIENCE, ..admin(&server(long)) };
        assert_eq!(patient.requests().await, Err(format!("its answer is longer than {MAX_ANSWER_BYTES} bytes")));
        let away = admin(&pointing("http://elsewhere.example/")).requests().await.unwrap_err();
        assert_eq!(away, "it points to http://elsewhere.example/, and redirects are not followed");
        let closed = server("HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\n{}");
        assert_eq!(admin(&closed).requests().await.unwrap_err(), format!("it {WANTS_TOKEN}"));
    }
}
