//! The console's files: a page, its style and its modules, compiled in. They hold no secret and reach no other host; the page may
//! do nothing that this listener did not serve (`POLICY`).

use super::AdminState;
use axum::{
    Router,
    body::Bytes,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};

const PAGE: &str = "/console";
/// Nothing but our own files and our own listener, no inline code, no text that becomes code, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($kind:literal: $($name:literal),+;)+) => {
        &[$($(File {
            path: concat!("/console/", $name),
            kind: $kind,
            text: include_str!(concat!("console/", $name)),
        }),+),+]
    };
}

/// Every file but the page.
const FILES: &[File] = files! {
    "text/css; charset=utf-8": "console.css";
    "image/svg+xml": "icon.svg";
    "text/javascript; charset=utf-8":
        "theme.js", "main.js", "dom.js", "format.js", "charts.js", "net.js", "sse.js", "feed.js", "verdict.js", "series.js",
        "overview.js", "fleet.js", "money.js", "tree.js", "watch.js", "requests.js", "route.js", "chat.js", "playground.js", "keys.js";
};

const INDEX: File = File { path: PAGE, kind: "text/html; charset=utf-8", text: include_str!("console/index.html") };

pub(super) fn routes() -> Router<AdminState> {
    [&INDEX].into_iter().chain(FILES).fold(Router::new(), |router, file| {
        let tag = tag(file.text);
        router.route(file.path, get(async move |headers: HeaderMap| serve(file, &tag, &headers)))
    })
}

/// Whether a path is the page's or one of its files'.
pub(super) fn is_of_page(path: &str) -> bool {
    path == PAGE || FILES.iter().any(|file| file.path == path)
}

/// Names a content.
fn tag(text: &str) -> HeaderValue {
    let digest = blake3::hash(text.as_bytes()).to_hex();
    HeaderValue::try_from(format!("\"{}\"", &digest[..16])).unwrap_or(HeaderValue::from_static("\"\""))
}

fn serve(file: &File, tag: &HeaderValue, headers: &HeaderMap) -> Response {
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|known| known == tag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Bytes::from_static(file.text.as_bytes()).into_response()
    };
    let out = response.headers_mut();
    let fixed = [
        (CONTENT_TYPE, file.kind),
        // Always asked for, so that a new gateway is never shown by an old console.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    fixed.into_iter().for_each(|(name, value)| drop(out.insert(name, HeaderValue::from_static(value))));
    out.insert(ETAG, tag.clone());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::HeaderName;

    #[test]
    fn the_page_names_only_files_that_are_here_and_each_is_named() {
        let texts = || [&INDEX].into_iter().chain(FILES);
        for file in FILES {
            let name = file.path.trim_start_matches("/console/");
            let named = texts().any(|other| {
                other.text.contains(&format!("/{name}\"")) || other.text.contains(&format!("\"./{name}\""))
            });
            assert!(named, "nobody asks for {name}");
        }
        for file in texts() {
            for part in file.text.split(" from \"./").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(is_of_page(&format!("/console/{name}")), "{}: {name}", file.path);
            }
            let outside = file.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!outside.contains("http://") && !outside.contains("https://"), "{} names another host", file.path);
        }
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let tag = tag(INDEX.text);
        let fresh = serve(&INDEX, &tag, &HeaderMap::new());
        assert_eq!(fresh.status(), StatusCode::OK);
        for name in [CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS, CACHE_CONTROL, HeaderName::from_static("etag")] {
            assert!(fresh.headers().contains_key(&name), "{name}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, tag.clone());
        assert_eq!(serve(&INDEX, &tag, &headers).status(), StatusCode::NOT_MODIFIED);
        assert!(is_of_page("/console") && !is_of_page("/console/other.js") && !is_of_page("/admin/status"));
    }
}
