//! A file server with faults, and small model files to serve: what `spillway models pull` is tested against.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the server does with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Knows ranges.
    Ranges,
    /// Sends the whole file whatever was asked for.
    Whole,
    /// Knows ranges, and closes the socket after so many bytes of the body.
    CutAfter(usize),
    /// As `CutAfter`, but knows no ranges.
    WholeCutAfter(usize),
    /// Says no length and sends more than there is.
    Endless,
    Status(u16),
    /// To this address, as Hugging Face does it: the checksum is named on the way.
    Redirect {
        to: String,
        sha256: Option<String>,
    },
}

/// One request, as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// Serves `body` under any path; ends with its value.
pub struct FileServer {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

impl FileServer {
    /// The manners of the first requests, in order; the last one goes on for ever.
    pub async fn start(body: Vec<u8>, manners: Vec<Manner>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        let body = Arc::new(body);
        let serving = spillway_actors::task::detached(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let count = heard.lock().expect("no holder panicked").len();
                let manner = manners.get(count).or(manners.last()).expect("a manner").clone();
                answer(socket, &body, manner, &heard).await;
            }
        });
        Self { address, asked, serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no holder panicked").clone()
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn head(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        let read = socket.read(&mut buffer).await.ok()?;
        if read == 0 || bytes.len() > 1 << 16 {
            return None;
        }
        bytes.extend(&buffer[..read]);
    }
    String::from_utf8(bytes).ok()
}

async fn answer(mut socket: TcpStream, body: &[u8], manner: Manner, asked: &Mutex<Vec<Asked>>) {
    let Some(head) = head(&mut socket).await else { return };
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = field("range");
    asked.lock().expect("no holder panicked").push(Asked {
        path,
        range: range.clone(),
        authorization: field("authorization"),
    });
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let (text, sent) = match &manner {
        Manner::Ranges | Manner::CutAfter(_) => ranged(body, from),
        Manner::Whole | Manner::WholeCutAfter(_) => ranged(body, None),
        Manner::Endless => ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(), body),
        Manner::Status(status) => (format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n"), &body[..0]),
        Manner::Redirect { to, sha256 } => (redirect(to, sha256.as_deref()), &body[..0]),
    };
    let sent = match manner {
        Manner::CutAfter(bytes) | Manner::WholeCutAfter(bytes) => &sent[..bytes.min(sent.len())],
        _ => sent,
    };
    // A client that leaves is no fault of the server's.
    let _ = socket.write_all(text.as_bytes()).await;
    let _ = socket.write_all(sent).await;
    if manner == Manner::Endless {
        let _ = socket.write_all(&[0; 4096]).await;
    }
    let _ = socket.shutdown().await;
}

fn ranged(body: &[u8], from: Option<usize>) -> (String, &[u8]) {
    let etag = "etag: \"v1\"\r\nconnection: close\r\n";
    match from {
        None => (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{etag}\r\n", body.len()), body),
        Some(from) if from >= body.len() => {
            let text = format!("HTTP/1.1 416 No\r\ncontent-range: bytes */{}\r\ncontent-length: 0\r\n\r\n", body.len());
            (text, &body[..0])
        }
        Some(from) => {
            let mut text = String::from("HTTP/1.1 206 Partial Content\r\n");
            let _ = write!(text, "content-range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
            let _ = write!(text, "content-length: {}\r\n{etag}\r\n", body.len() - from);
            (text, &body[from..])
        }
    }
}

fn redirect(to: &str, sha256: Option<&str>) -> String {
    let linked = sha256.map(|digest| format!("x-linked-etag: \"{digest}\"\r\n")).unwrap_or_default();
    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\n{linked}content-length: 0\r\nconnection: close\r\n\r\n")
}

/// A GGUF file that says next to nothing: a name, and one tensor of so many numbers.
pub fn gguf(numbers: u64) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    bytes.extend(text("general.architecture"));
    bytes.extend(8_u32.to_le_bytes());
    bytes.extend(text("llama"));
    bytes.extend(text("output.weight"));
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(numbers.to_le_bytes());
    bytes.extend([0; 4 + 8]);
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend((0..numbers).flat_map(|number| (number as u32).wrapping_mul(2_654_435_761).to_le_bytes()));
    bytes
}
