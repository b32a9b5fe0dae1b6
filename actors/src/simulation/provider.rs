//! Providers: HTTP over connections in this process, numbered words over HTTP, and all that goes wrong with either. What is
//! answered is billed, whether or not it arrives.

use super::{
    dial::Network,
    dice::Dice,
    stage::{Bill, PROMPT_TOKENS, Stage, asked_words, word},
};
use crate::task;
use futures_util::future::FutureExt;
use serde_json::{Value, json};
use std::{future::pending, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::sleep,
};

const SOCKET_BYTES: usize = 16 << 10;

pub(super) fn network(stage: &Stage) -> Network {
    let stage = stage.clone();
    Arc::new(move |host| {
        let stage = stage.clone();
        async move { connect(stage, host).await }.boxed()
    })
}

async fn connect(stage: Stage, host: String) -> io::Result<DuplexStream> {
    let mut dice = stage.dice();
    let storm = stage.storm(&host);
    sleep(dice.ms(0..30)).await;
    if dice.percent(storm / 3) {
        stage.say(format_args!("{host} refuses a connection"));
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    if dice.percent(storm / 6) {
        stage.say(format_args!("{host} lets a connection hang"));
        pending::<()>().await;
    }
    let (ours, theirs) = tokio::io::duplex(SOCKET_BYTES);
    task::detached(async move {
        let mut connection = Connection { stage, host, dice, socket: theirs, received: Vec::new() };
        // A connection that breaks just ends.
        let _ = connection.serve().await;
    });
    Ok(ours)
}

struct Call {
    path: String,
    request: String,
    body: Value,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Streams,
    /// In one piece although a stream was asked for.
    Whole,
    WithoutUsage,
    WithoutDone,
    Refuses(u16),
    Limits,
    /// No byte of an answer.
    Silent,
    /// Nothing but a role.
    NoToken,
    Cut,
    Stalls,
    Garbage,
    ErrorInside,
    NoFinish,
    Late,
}

struct Connection {
    stage: Stage,
    host: String,
    dice: Dice,
    socket: DuplexStream,
    received: Vec<u8>,
}

impl Connection {
    async fn serve(&mut self) -> io::Result<()> {
        while let Some(call) = self.call().await? {
            if call.path.ends_with("/models") {
                self.list().await?;
            } else {
                self.answer(call).await?;
            }
        }
        Ok(())
    }

    /// The next request; `None` when the client has gone.
    async fn call(&mut self) -> io::Result<Option<Call>> {
        let end = loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.socket.read_buf(&mut self.received).await? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
        };
        let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while self.received.len() < end + length {
            if self.socket.read_buf(&mut self.received).await? == 0 {
                return Ok(None);
            }
        }
        let body = serde_json::from_slice(&self.received[end..end + length]).unwrap_or_default();
        self.received.drain(..end + length);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        Ok(Some(Call { path, request: header("x-request-id").unwrap_or_default(), body }))
    }

    async fn list(&mut self) -> io::Result<()> {
        if self.dice.percent(self.stage.storm(&self.host)) {
            return self.refuse(503, "").await;
        }
        self.whole("200 OK", "", &json!({"data": []}).to_string()).await
    }

    async fn whole(&mut self, status: &str, headers: &str, body: &str) -> io::Result<()> {
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.socket.write_all(answer.as_bytes()).await
    }

    async fn refuse(&mut self, status: u16, headers: &str) -> io::Result<()> {
        self.whole(&format!("{status} So"), headers, r#"{"error": {"message": "no"}}"#).await
    }

    fn turn(&mut self) -> Turn {
        if !self.dice.percent(self.stage.storm(&self.host)) {
            let well = [(80, Turn::Streams), (6, Turn::Whole), (7, Turn::WithoutUsage), (7, Turn::WithoutDone)];
            return self.dice.weighed(&well);
        }
        self.dice.weighed(&[
            (10, Turn::Refuses(500)),
            (10, Turn::Refuses(503)),
            (2, Turn::Refuses(401)),
            (2, Turn::Refuses(400)),
            (15, Turn::Limits),
            (6, Turn::Silent),
            (6, Turn::NoToken),
            (20, Turn::Cut),
            (8, Turn::Stalls),
            (5, Turn::Garbage),
            (5, Turn::ErrorInside),
            (5, Turn::NoFinish),
            (6, Turn::Late),
        ])
    }

    async fn answer(&mut self, call: Call) -> io::Result<()> {
        // Whoever has left already has nothing to answer for.
        if matches!(self.socket.read_buf(&mut self.received).now_or_never(), Some(Ok(0) | Err(_))) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let turn = self.turn();
        let (stage, host) = (self.stage.clone(), self.host.clone());
        stage.say(format_args!("{host} is called by {}: {turn:?}", call.request));
        *stage.calls.lock().entry(call.request.clone()).or_default() += 1;
        let open = stage.ledger.lock().as_ref().map_or(0, |ledger| ledger.snapshot().open_reservations);
        stage.demand(open > 0, || format!("{host} is called by {} and nothing is reserved", call.request));
        sleep(self.dice.ms(5..400)).await;
        match turn {
            Turn::Refuses(status) => self.refuse(status, "").await,
            Turn::Limits => {
                let after = self.dice.number(0..4);
                let header = if after == 0 { String::new() } else { format!("retry-after: {after}\r\n") };
                self.refuse(429, &header).await
            }
            Turn::Silent => self.until_left().await,
            _ => self.generate(turn, &call).await,
        }
    }

    /// Waits for the client to leave.
    async fn until_left(&mut self) -> io::Result<()> {
        while self.socket.read_buf(&mut self.received).await? > 0 {}
        Err(io::ErrorKind::BrokenPipe.into())
    }

    /// Generates until the end, or until the client has gone; and bills what was generated.
    async fn generate(&mut self, turn: Turn, call: &Call) -> io::Result<()> {
        let model = call.body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
        let bill = {
            let mut bills = self.stage.bills.lock();
            bills.push(Bill { request: call.request.clone(), model, generated: 0 });
            bills.len() - 1
        };
        let ended = self.speak(turn, call, bill).await;
        let generated = self.stage.bills.lock()[bill].generated;
        self.stage.say(format_args!("{} bills {} {generated} tokens", self.host, call.request));
        ended
    }

    async fn speak(&mut self, turn: Turn, call: &Call, bill: usize) -> io::Result<()> {
        let messages = call.body.get("messages").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |message: &Value| message.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
        let wanted = messages.first().map(text).map_or(1, |prompt| asked_words(&prompt));
        let begun = messages.last().filter(|last| last.get("role") == Some(&json!("assistant"))).map(text);
        let has = begun.as_deref().map_or(0, |begun| begun.split_whitespace().count() as u64);
        let cap = call.body.get("max_tokens").and_then(Value::as_u64).unwrap_or(u64::MAX);
        // Some say it all again: what is long enough to be known is cut away.
        let from = if has >= 4 && self.dice.percent(15) { 0 } else { has.min(wanted) };
        let count = (wanted - from).min(cap);
        let reason = if from + count == wanted { "stop" } else { "length" };
        let usage = |made: u64| json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": made});
        // The gateway reckons with 50 tokens a second where it cannot see them.
        let pace = self.dice.number(21..90);
        let several = call.body.get("n").and_then(Value::as_u64).unwrap_or(1);
        if turn == Turn::Whole {
            for _ in 0..count * several {
                self.make_one(pace, bill).await?;
            }
            let content: String = (from..from + count).map(word).collect();
            let message = json!({"role": "assistant", "content": content});
            let choice = |index| json!({"index": index, "message": message, "finish_reason": reason});
            let choices: Vec<Value> = (0..several).map(choice).collect();
            let whole = json!({"choices": choices, "usage": usage(count * several)}).to_string();
            return self.whole("200 OK", "", &whole).await;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        if turn == Turn::Late {
            let time = self.dice.ms(6_000..14_000);
            self.pause(time).await?;
        }
        self.socket.write_all(head.as_bytes()).await?;
        self.event(&json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})).await?;
        if turn == Turn::NoToken {
            return self.until_left().await;
        }
        let breaks = matches!(turn, Turn::Cut | Turn::Stalls | Turn::Garbage | Turn::ErrorInside | Turn::NoFinish);
        let breaks_at = breaks.then(|| self.dice.number(0..count.max(1)));
        for at in from..from + count {
            if breaks_at == Some(at - from) {
                return self.break_off(turn).await;
            }
            for index in 0..several {
                self.make_one(pace, bill).await?;
                self.event(&json!({"choices": [{"index": index, "delta": {"content": word(at)}}]})).await?;
            }
        }
        for index in 0..several {
            self.event(&json!({"choices": [{"index": index, "delta": {}, "finish_reason": reason}]})).await?;
        }
        if turn != Turn::WithoutUsage {
            self.event(&json!({"choices": [], "usage": usage(count * several)})).await?;
        }
        if turn == Turn::WithoutDone {
            return self.socket.write_all(b"0\r\n\r\n").await;
        }
        self.chunk(b"data: [DONE]\n\n").await?;
        self.socket.write_all(b"0\r\n\r\n").await
    }

    /// One token more, unless the client leaves.
    async fn make_one(&mut self, pace: u64, bill: usize) -> io::Result<()> {
        let time = self.dice.ms(20..pace);
        self.pause(time).await?;
        self.stage.bills.lock()[bill].generated += 1;
        Ok(())
    }

    async fn break_off(&mut self, turn: Turn) -> io::Result<()> {
        match turn {
            Turn::Stalls => self.until_left().await,
            Turn::Garbage => {
                self.chunk(b"data: {\"choices\": [{\n\n").await?;
                Err(io::ErrorKind::BrokenPipe.into())
            }
            Turn::ErrorInside => {
                self.event(&json!({"error": {"message": "no more"}})).await?;
                self.socket.write_all(b"0\r\n\r\n").await
            }
            Turn::NoFinish => {
                self.chunk(b"data: [DONE]\n\n").await?;
                self.socket.write_all(b"0\r\n\r\n").await
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Time passes, unless the client leaves.
    async fn pause(&mut self, time: Duration) -> io::Result<()> {
        tokio::select! {
            biased;
            read = self.socket.read_buf(&mut self.received) => match read? {
                0 => Err(io::ErrorKind::BrokenPipe.into()),
                _ => Ok(()),
            },
            () = sleep(time) => Ok(()),
        }
    }

    async fn event(&mut self, data: &Value) -> io::Result<()> {
        self.chunk(format!("data: {data}\n\n").as_bytes()).await
    }

    async fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let head = format!("{:x}\r\n", bytes.len());
        self.socket.write_all(&[head.as_bytes(), bytes, b"\r\n"].concat()).await
    }
}
