use super::*;
use crate::domain::Origin;
use http::HeaderValue;
use std::time::UNIX_EPOCH;

const KEY: &str = "sk-canary-0123456789";
const PROMPT: &[u8] =
    br#"{"messages": [{"role": "user", "content": "my secret recipe for canary soup"}], "response_format": 1}"#;

fn error(status: u16, body: &str) -> GatewayError {
    let status = StatusCode::from_u16(status).unwrap();
    let retry_after = Some(Duration::from_secs(2));
    Refusal { target: "holysheep", status, body: body.as_bytes(), retry_after }.into_error(KEY, PROMPT)
}

#[test]
fn every_status_has_its_kind() {
    use ErrorKind::*;
    for (status, body, kind) in [
        (301, "", Upstream),
        (400, "", InvalidRequest),
        (400, r#"{"error": {"code": "context_length_exceeded"}}"#, ContextLengthExceeded),
        (
            400,
            r#"{"error": {"message": "This model's maximum context length is 9 tokens", "code": 400}}"#,
            ContextLengthExceeded,
        ),
        (400, r#"{"object": "error", "message": "maximum context length is 9"}"#, ContextLengthExceeded),
        (
            400,
            r#"{"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}}"#,
            ContextLengthExceeded,
        ),
        (400, r#"{"error": {"code": "content_filter"}}"#, ContentFilter),
        (400, r#"{"error": {"type": "content_filter", "code": null}}"#, ContentFilter),
        (400, r#"{"error": {"code": "model_not_found"}}"#, ModelNotFound),
        (
            400,
            r#"{"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}}"#,
            ContextLengthExceeded,
        ),
        (
            400,
            r#"{"type": "error", "error": {"type": "invalid_request_error", "message": "input length and `max_tokens` exceed context limit: 5 + 4 > 8"}}"#,
            ContextLengthExceeded,
        ),
        (
            400,
            r#"{"type": "error", "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}"#,
            ContentFilter,
        ),
        (
            400,
            r#"{"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}}"#,
            InsufficientQuota,
        ),
        (
            400,
            r#"{"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: too large"}}"#,
            InvalidRequest,
        ),
        (
            401,
            r#"{"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}"#,
            Unauthorized,
        ),
        (402, r#"{"type": "error", "error": {"type": "billing_error", "message": "m"}}"#, InsufficientQuota),
        (403, r#"{"type": "error", "error": {"type": "permission_error", "message": "m"}}"#, Forbidden),
        (
            404,
            r#"{"type": "error", "error": {"type": "not_found_error", "message": "model: claude-0"}}"#,
            ModelNotFound,
        ),
        (413, r#"{"type": "error", "error": {"type": "request_too_large", "message": "m"}}"#, TooLarge),
        (429, r#"{"type": "error", "error": {"type": "rate_limit_error", "message": "m"}}"#, RateLimited),
        (500, r#"{"type": "error", "error": {"type": "api_error", "message": "m"}}"#, Upstream),
        (529, r#"{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}"#, Upstream),
        (401, "", Unauthorized),
        (402, "<html>", InsufficientQuota),
        (403, "", Forbidden),
        (403, r#"{"error": {"code": "insufficient_quota"}}"#, InsufficientQuota),
        (404, r#"{"error": {"code": "model_not_found"}}"#, ModelNotFound),
        (404, r#"{"error": {"message": "The model `x` does not exist"}}"#, ModelNotFound),
        (404, "<html>nothing here</html>", Upstream),
        (408, "", Upstream),
        (413, "", TooLarge),
        (422, "", InvalidRequest),
        (429, "", RateLimited),
        (429, r#"{"error": {"type": "insufficient_quota"}}"#, InsufficientQuota),
        (500, r#"{"error": {"code": "insufficient_quota"}}"#, Upstream),
        (503, "", Upstream),
        (529, "", Upstream),
    ] {
        let error = error(status, body);
        assert_eq!(error.kind, kind, "{status} {body}");
        assert_eq!(error.origin, Origin::Target("holysheep".into()));
    }
}

#[test]
fn retry_after_is_kept_where_waiting_helps() {
    let two = Some(Duration::from_secs(2));
    for (status, kept) in [(429, two), (503, two), (500, two), (400, None), (401, None), (402, None)] {
        assert_eq!(error(status, "").retry_after, kept, "{status}");
    }
    assert_eq!(
        error(429, r#"{"error": {"code": "insufficient_quota"}}"#).retry_after,
        None,
        "money does not come back"
    );
}

#[test]
fn a_limit_that_names_the_model_is_that_models_only() {
    let request = br#"{"model": "gpt-4.1", "messages": []}"#;
    let of_model = |status: u16, said: &str| {
        let body = format!(r#"{{"error": {{"message": "{said}"}}}}"#);
        let status = StatusCode::from_u16(status).unwrap();
        Refusal { target: "t", status, body: body.as_bytes(), retry_after: None }.into_error(KEY, request).of_model
    };
    for said in ["Rate limit reached for gpt-4.1 in organization x", "limit of `gpt-4.1`", "too many calls to gpt-4.1."]
    {
        assert!(of_model(429, said), "{said}");
    }
    for said in ["Rate limit reached", "limit of gpt-4.1-mini", "limit of gpt-4.1.5", "limit of azure/gpt-4.1", ""] {
        assert!(!of_model(429, said), "{said}");
    }
    assert!(!of_model(500, "gpt-4.1 is broken"));
}

#[test]
fn a_refused_request_quotes_the_provider_on_one_short_line() {
    let body = r#"{"error": {"message": "Invalid 'response_format':\n no such type", "param": "response_format"}}"#;
    let refused = error(400, body);
    assert_eq!(refused.message, "the provider refused the request: Invalid 'response_format':  no such type");
    assert_eq!(refused.param.as_deref(), Some("response_format"));
    let long = error(422, &format!(r#"{{"error": {{"message": "{}"}}}}"#, "é ".repeat(4000)));
    assert!(long.message.chars().count() < 340);
}

#[test]
fn neither_key_nor_prompt_comes_back() {
    let generic = "the provider refused the request (400)";
    for said in [
        "bad key sk-canary-0123456789",
        "bad key sk-canary-01********",
        "cannot read: my secret recipe for canary soup",
        "cannot read: '...recipe for canary s...'",
    ] {
        let refused = error(400, &format!(r#"{{"error": {{"message": "{said}", "param": "{KEY}"}}}}"#));
        assert_eq!((refused.message.as_str(), refused.param), (generic, None), "{said}");
    }
    let param = |param: &str| error(400, &format!(r#"{{"error": {{"message": "no", "param": "{param}"}}}}"#)).param;
    for place in ["messages[0].content", "messages", "response_format"] {
        assert_eq!(param(place).as_deref(), Some(place));
    }
    for none in [
        "secret",
        "my secret recipe",
        "messages[my secret recipe]",
        "messages.secretrecipeforcanarysoup-".repeat(2).as_str(),
    ] {
        assert_eq!(param(none), None, "{none}");
    }
    let echo = format!(r#"{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}"#);
    for status in [401, 402, 403, 404, 413, 429, 500] {
        let message = error(status, &echo).to_string();
        assert!(!message.contains("canary"), "{message}");
    }
}

#[test]
fn a_system_text_beside_the_messages_does_not_come_back_either() {
    let sent = br#"{"messages": [], "system": [{"type": "text", "text": "my secret recipe for canary soup"}]}"#;
    let body = br#"{"type": "error", "error": {"message": "cannot read: my secret recipe for canary soup"}}"#;
    let refusal = Refusal { target: "up", status: StatusCode::BAD_REQUEST, body, retry_after: None };
    assert_eq!(refusal.into_error(KEY, sent).message, "the provider refused the request (400)");
}

#[test]
fn retry_after_is_seconds_milliseconds_or_a_date_and_capped() {
    let now = UNIX_EPOCH + Duration::from_secs(1_445_412_440);
    let parsed = |name: &'static str, value: &str| {
        let headers =
            HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())]);
        retry_after(&headers, now)
    };
    let seconds = Duration::from_secs;
    assert_eq!(parsed("retry-after", "2"), Some(seconds(2)));
    assert_eq!(parsed("retry-after", " 1.5 "), Some(Duration::from_millis(1500)));
    assert_eq!(parsed("retry-after-ms", "250"), Some(Duration::from_millis(250)));
    assert_eq!(parsed("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), Some(seconds(40)));
    assert_eq!(parsed("retry-after", "Wed, 21 Oct 2015 07:00:00 GMT"), Some(Duration::ZERO), "a past date: now");
    for far in ["86400", "1e300", "Wed, 21 Oct 2065 07:28:00 GMT"] {
        assert_eq!(parsed("retry-after", far), Some(seconds(300)), "{far}");
    }
    for nonsense in ["", "-1", "soon", "NaN", "inf"] {
        assert_eq!(parsed("retry-after", nonsense), None, "{nonsense}");
    }
}
