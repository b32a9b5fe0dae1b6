//! The part of `[server]` that the listeners need: bounds of connections, CORS, TLS.

use super::Context;
use crate::config::{
    CorsOrigins, EdgeConfig, TlsIdentity,
    section::{Placed, Section},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{path::Path, sync::Arc};

/// Largest sum of request bodies that can be configured.
const MAX_BODIES_BYTES: u32 = u32::MAX;

pub(super) fn edge(section: &Section<'_>) -> Option<EdgeConfig> {
    let max_connections = section.size("max_connections", 1..=1_000_000);
    let max_connections_per_address = section.size("max_connections_per_address", 0..=1_000_000);
    let header_timeout = section.millis("header_timeout_ms", 1);
    // hyper needs 8 KiB.
    let max_header_bytes = section.size("max_header_bytes", 8192..=1 << 20);
    let max_headers = section.size("max_headers", 8..=10_000);
    let idle_timeout = section.millis("idle_timeout_ms", 1);
    let upload_timeout = section.millis("upload_timeout_ms", 1);
    let max_bodies_bytes = section.size("max_bodies_bytes", 1024..=MAX_BODIES_BYTES);
    let stalled_reader_timeout = section.millis("stalled_reader_timeout_ms", 1);
    Some(EdgeConfig {
        max_connections: max_connections?,
        max_connections_per_address: max_connections_per_address?,
        header_timeout: header_timeout?,
        max_header_bytes: max_header_bytes?,
        max_headers: max_headers?,
        idle_timeout: idle_timeout?,
        upload_timeout: upload_timeout?,
        max_bodies_bytes: max_bodies_bytes?,
        stalled_reader_timeout: stalled_reader_timeout?,
    })
}

/// Any page at all may be named only where every request needs a key: a page needs no permission to reach loopback.
pub(super) fn cors_origins(section: &Section<'_>, require_keys: Option<bool>) -> Option<CorsOrigins> {
    const KEY: &str = "cors_origins";
    let mut origins = CorsOrigins::default();
    let mut good = true;
    for origin in section.texts(KEY)? {
        if origin.value == "*" {
            origins.any = true;
            if require_keys != Some(true) {
                section.refuse(KEY, &origin.origin, "may hold \"*\" only with require_keys = true");
                good = false;
            }
        } else if is_origin(&origin.value) {
            origins.listed.push(origin.value);
        } else {
            let why = "must hold origins as browsers write them: scheme and host in lower case, a port unless it is the \
                       scheme's own, no path, such as https://chat.example or http://localhost:3000";
            section.refuse(KEY, &origin.origin, why);
            good = false;
        }
    }
    good.then_some(origins)
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
    !rest.is_empty() && !rest.ends_with(own_port) && rest.chars().all(is_plain)
}

/// `Some(None)` = plain HTTP.
pub(super) fn tls(section: &Section<'_>, context: &Context<'_>) -> Option<Option<TlsIdentity>> {
    const CERT: &str = "tls_cert_file";
    const KEY: &str = "tls_key_file";
    let (cert, key) = (section.text(CERT)?, section.text(KEY)?);
    match (cert.value.is_empty(), key.value.is_empty()) {
        (true, true) => return Some(None),
        (false, false) => {}
        (true, false) => section.refuse(CERT, &key.origin, "is needed beside tls_key_file"),
        (false, true) => section.refuse(KEY, &cert.origin, "is needed beside tls_cert_file"),
    }
    let (cert_text, key_text) = (read(section, CERT, &cert, context), read(section, KEY, &key, context));
    let (cert_text, key_text) = (cert_text?, key_text?);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert_text.as_bytes()).filter_map(Result::ok).collect();
    if chain.is_empty() {
        section.refuse(CERT, &cert.origin, "holds no certificate in PEM form");
    }
    let private = PrivateKeyDer::from_pem_slice(key_text.as_bytes());
    if private.is_err() {
        section.refuse(KEY, &key.origin, "holds no private key in PEM form");
    }
    let private = private.ok().filter(|_| !chain.is_empty())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let built = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
    match built {
        Ok(mut server) => {
            server.alpn_protocols = vec![b"http/1.1".to_vec()];
            let digest = blake3::hash(format!("{cert_text}\0{key_text}").as_bytes());
            Some(Some(TlsIdentity::new(server, digest)))
        }
        Err(error) => {
            section.refuse(CERT, &cert.origin, format_args!("cannot be served with tls_key_file: {error}"));
            None
        }
    }
}

fn read(section: &Section<'_>, key: &str, path: &Placed<String>, context: &Context<'_>) -> Option<String> {
    if path.value.is_empty() {
        return None;
    }
    let text = (context.read)(Path::new(&path.value));
    if let Err(error) = &text {
        section.refuse(key, &path.origin, format_args!("cannot be read: {error}"));
    }
    text.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_taken_as_browsers_write_them() {
        for good in ["https://chat.example", "http://localhost:3000", "https://a.b-c.example:8443", "http://[::1]:3000"]
        {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "chat.example",
            "https://",
            "https://Chat.example",
            "https://chat.example/",
            "https://chat.example:443",
            "http://chat.example:80",
            "ftp://chat.example",
            "null",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
