//! How the commands call a gateway: no proxy, no redirect, no more of an answer than there may be. What an answer says is cleaned
//! by whoever shows it.
//!
//! A redirect is told and never followed: what is asked, and the key or token it is asked with, are for the address that was named.

use crate::chat::clean::{deepest, one_line};
use futures_util::StreamExt;
use reqwest::{ClientBuilder, Response, header::LOCATION, redirect::Policy};
use spillway_actors::cloud::client::install_tls_provider;

/// Characters of an address that are worth showing.
const SHOWN: usize = 200;

/// For calls of this address; the caller sets the times.
pub(crate) fn client(url: &str) -> ClientBuilder {
    install_tls_provider();
    let builder = reqwest::Client::builder().no_proxy().redirect(Policy::none());
    if url.starts_with("https:") { builder } else { builder.tls_certs_only([]) }
}

/// Where an answer points to instead of being one.
pub(crate) fn elsewhere(response: &Response) -> Option<String> {
    if !response.status().is_redirection() {
        return None;
    }
    let to = response.headers().get(LOCATION).map(|to| one_line(&String::from_utf8_lossy(to.as_bytes())));
    let to: String = to.unwrap_or_else(|| "nowhere".to_owned()).chars().take(SHOWN).collect();
    Some(format!("it points to {to}, and redirects are not followed"))
}

/// A body, whole.
///
/// # Errors
/// It breaks off, or is longer than `most`.
pub(crate) async fn body(response: Response, most: usize) -> Result<Vec<u8>, String> {
    let (mut pieces, mut body) = (response.bytes_stream(), Vec::new());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| deepest(&error))?;
        if body.len() + piece.len() > most {
            return Err(format!("its answer is longer than {most} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    /// A server that answers every request with this and closes.
    pub(crate) fn server(answer: impl Into<Vec<u8>>) -> String {
        let (listener, answer) = (TcpListener::bind("127.0.0.1:0").unwrap(), answer.into());
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut socket in listener.incoming().map_while(Result::ok) {
                let (mut head, mut piece) = (Vec::new(), [0; 4096]);
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    match socket.read(&mut piece) {
                        Ok(count) if count > 0 => head.extend_from_slice(&piece[..count]),
                        _ => break,
                    }
                }
                let _ = socket.write_all(&answer);
            }
        });
        url
    }

    /// One that points somewhere else, where nobody must be asked.
    pub(crate) fn pointing(to: &str) -> String {
        server(format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ))
    }

    #[tokio::test]
    async fn a_redirect_is_told_and_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let elsewhere_url = format!("http://{}/v1\u{9b}31m", listener.local_addr().unwrap());
        let url = pointing(&elsewhere_url);
        let response = client(&url).build().unwrap().post(&url).body("a prompt").send().await.unwrap();
        let told = elsewhere(&response).unwrap();
        assert_eq!(
            told,
            format!("it points to http://{}/v1, and redirects are not followed", listener.local_addr().unwrap())
        );
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "nobody has called there");
    }

    #[tokio::test]
    async fn a_body_has_an_end() {
        let url = server("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n0123456789");
        let get = async |most| body(client(&url).build().unwrap().get(&url).send().await.unwrap(), most).await;
        assert_eq!(get(10).await.as_deref(), Ok(&b"0123456789"[..]));
        assert_eq!(get(9).await, Err("its answer is longer than 9 bytes".to_owned()));
    }
}
