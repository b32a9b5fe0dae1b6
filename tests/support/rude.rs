//! A server that says whatever a test wants, byte for byte, and remembers what it was told. For what the simulated
//! provider is too well-behaved to say.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Makes an answer of what was received: a whole request, head and body.
type Answer = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

pub struct Rude {
    pub addr: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Rude {
    pub async fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let addr = listener.local_addr().expect("an address");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (noted, answer): (_, Arc<Answer>) = (Arc::clone(&heard), Arc::new(Box::new(answer)));
        #[expect(clippy::disallowed_methods, reason = "owned by this value, whose Drop ends it")]
        let serving = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                tokio::spawn(async move { converse(socket, &noted, &answer).await });
            }
        });
        Self { addr, heard, serving }
    }

    /// Requests so far, whole.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("no holder panicked").clone()
    }

    /// Tables of a provider of this name at this server, with one model of the same name.
    pub fn provider(&self, name: &str) -> String {
        let var = super::setup::KEY_VAR;
        format!(
            "\n[[cloud]]\nname = \"{name}\"\nbase_url = \"http://{}/v1\"\napi_keys_env = [\"{var}\"]\nactors = 1\n\
             warm_up = false\n[[cloud.models]]\nname = \"{name}-model\"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n",
            self.addr
        )
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One request, one answer, and the end.
async fn converse(mut socket: TcpStream, heard: &Mutex<Vec<String>>, answer: &Answer) {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while !is_whole(&bytes) {
        match socket.read(&mut piece).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let reply = answer(&text);
    if let Ok(mut heard) = heard.lock() {
        heard.push(text);
    }
    let _ = socket.write_all(&reply).await;
    let _ = socket.shutdown().await;
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// A whole answer with this status line and these lines of header.
pub fn reply(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}
