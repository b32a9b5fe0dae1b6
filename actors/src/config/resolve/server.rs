//! `[server]`: where the gateway listens and what it admits.

use super::{Context, edge};
use crate::config::{
    ServerConfig,
    section::{Placed, Section},
};
use secrecy::SecretString;
use std::{net::SocketAddr, path::Path};

/// Largest request body that still fits into one engine frame.
const MAX_BODY_BYTES: u32 = 30 << 20;

pub(super) fn server(section: Section<'_>, context: &Context<'_>) -> Option<ServerConfig> {
    let listen = address(&section, "listen");
    let admin_listen = address(&section, "admin_listen");
    let max_inflight = section.size("max_inflight", 1..=100_000);
    let adaptive_admission = section.flag("adaptive_admission");
    let max_body_bytes = section.size("max_body_bytes", 1024..=MAX_BODY_BYTES);
    let admin_token = admin_token(&section, context);
    let admin_hosts = section.texts("admin_hosts");
    let request_timeout = section.millis("request_timeout_ms", 1);
    let drain_timeout = section.millis("drain_timeout_ms", 0);
    let keep_alive = section.millis("keep_alive_ms", 0);
    let bounds = edge::edge(&section);
    let tls = edge::tls(&section, context);
    let reload_poll = section.millis("reload_poll_ms", 0);
    let require_keys = section.flag("require_keys");
    let cors = edge::cors_origins(&section, require_keys);
    check_api_exposure(&section, listen.as_ref(), require_keys);
    check_admin_exposure(&section, listen.as_ref(), admin_listen.as_ref(), matches!(admin_token, Some(None)));
    section.finish();
    Some(ServerConfig {
        listen: listen?.value,
        admin_listen: admin_listen?.value,
        max_inflight: max_inflight?,
        adaptive_admission: adaptive_admission?,
        max_body_bytes: max_body_bytes?,
        require_keys: require_keys?,
        admin_token: admin_token?,
        admin_hosts: admin_hosts?.into_iter().map(|host| host.value).collect(),
        request_timeout: request_timeout?,
        drain_timeout: drain_timeout?,
        keep_alive: Some(keep_alive?).filter(|silence| !silence.is_zero()),
        edge: bounds?,
        cors: cors?,
        tls: tls?,
        reload_poll: Some(reload_poll?).filter(|interval| !interval.is_zero()),
    })
}

fn address(section: &Section<'_>, key: &'static str) -> Option<Placed<SocketAddr>> {
    let text = section.text(key)?;
    let address = text.value.parse();
    if address.is_err() {
        section.refuse(key, &text.origin, "must be an IP address with a port, such as 127.0.0.1:8080");
    }
    Some(Placed { value: address.ok()?, origin: text.origin })
}

/// Without API keys, whoever reaches the API spends the operator's money: loopback only.
fn check_api_exposure(section: &Section<'_>, listen: Option<&Placed<SocketAddr>>, require_keys: Option<bool>) {
    if let (Some(listen), Some(false)) = (listen, require_keys)
        && !listen.value.ip().is_loopback()
    {
        let why = "is not a loopback address: whoever reaches it could spend your money, so that needs \
                   require_keys = true (make a key with `spillway keys create`); or bind to 127.0.0.1:8080";
        section.refuse("listen", &listen.origin, why);
    }
}

fn check_admin_exposure(
    section: &Section<'_>,
    listen: Option<&Placed<SocketAddr>>,
    admin_listen: Option<&Placed<SocketAddr>>,
    no_token: bool,
) {
    let Some(admin) = admin_listen else { return };
    if no_token && !admin.value.ip().is_loopback() {
        section.refuse("admin_listen", &admin.origin, "is not a loopback address: that needs admin_token_file");
    }
    if listen.is_some_and(|listen| listen.value == admin.value && admin.value.port() != 0) {
        section.refuse("admin_listen", &admin.origin, "is the same address as `server.listen`");
    }
}

/// `Some(None)` = no token configured.
fn admin_token(section: &Section<'_>, context: &Context<'_>) -> Option<Option<SecretString>> {
    const KEY: &str = "admin_token_file";
    let file = section.text(KEY)?;
    if file.value.is_empty() {
        return Some(None);
    }
    let text = (context.read)(Path::new(&file.value));
    if let Err(error) = &text {
        section.refuse(KEY, &file.origin, format_args!("cannot be read: {error}"));
    }
    let text = text.ok()?;
    let token = text.trim();
    if token.is_empty() || !token.chars().all(|character| character.is_ascii_graphic()) {
        section.refuse(KEY, &file.origin, "must hold one line of visible ASCII characters");
        return None;
    }
    Some(Some(SecretString::from(token)))
}
