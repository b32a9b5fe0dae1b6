use super::*;
use proptest::prelude::*;

/// Events and the first error of `pieces`, with `finish` at the end when asked.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, finish: bool) -> (Vec<SseEvent>, Option<SseError>) {
    let mut parser = SseParser::new();
    let mut events = Vec::new();
    for piece in pieces {
        if let Err(error) = parser.push(piece) {
            return (events, Some(error));
        }
        loop {
            match parser.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    if finish {
        match parser.finish() {
            Ok(last) => events.extend(last),
            Err(error) => return (events, Some(error)),
        }
    }
    (events, None)
}

fn data(body: &[u8]) -> Vec<String> {
    let (events, error) = read([body], false);
    assert_eq!(error, None);
    events.into_iter().map(|event| event.data).collect()
}

#[test]
fn every_line_end_ends_a_line() {
    for end in ["\n", "\r", "\r\n"] {
        let body = ["data: a", "data: b", "", "data: c", "", ""].join(end);
        assert_eq!(data(body.as_bytes()), ["a\nb", "c"], "{end:?}");
    }
}

#[test]
fn a_cr_at_the_end_of_a_chunk_dispatches_at_once_and_swallows_a_later_lf() {
    let mut parser = SseParser::new();
    parser.push(b"data: a\r\n\r").unwrap();
    assert_eq!(parser.next_event().unwrap().unwrap().data, "a");
    parser.push(b"\ndata: b\r\n\r\n").unwrap();
    assert_eq!(parser.next_event().unwrap().unwrap().data, "b");
    assert_eq!(parser.next_event(), Ok(None));
}

#[test]
fn comments_unknown_fields_and_events_without_data_are_ignored() {
    assert_eq!(data(b": ping\n\nid: 7\nretry: 10\nnope: x\n\nevent: e\n\ndata: a\n\n"), ["a"]);
    let (events, _) = read([b"event: a\n\ndata: x\n\n".as_slice()], false);
    assert_eq!(events[0].name, None, "the name of a dropped event does not stick to the next");
}

#[test]
fn fields_without_colon_and_with_one_space_or_none() {
    assert_eq!(data(b"data\n\n"), [""]);
    assert_eq!(data(b"data\ndata\n\n"), ["\n"]);
    assert_eq!(data(b"data:a\n\ndata:  b\n\ndata: c: d\n\n"), ["a", " b", "c: d"]);
    assert_eq!(data(b" data: a\n\n"), Vec::<String>::new());
}

#[test]
fn the_last_event_name_counts() {
    let (events, _) = read([b"event: a\nevent: error\ndata: x\n\n".as_slice()], false);
    assert_eq!(events, [SseEvent { name: Some("error".into()), data: "x".into() }]);
}

#[test]
fn one_byte_order_mark_is_skipped_even_in_pieces() {
    let body = b"\xEF\xBB\xBFdata: a\n\n";
    assert_eq!(data(body), ["a"]);
    assert_eq!(read(body.chunks(1), false).0[0].data, "a");
    assert_eq!(data(b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\n"), Vec::<String>::new());
}

#[test]
fn utf8_may_be_split_but_must_be_utf8() {
    let body = "data: 日本🦀\n\n".as_bytes();
    assert_eq!(read(body.chunks(1), false).0[0].data, "日本🦀");
    let (events, error) = read([b"data: a\n\ndata: \xFF\n\ndata: b\n\n".as_slice()], false);
    assert_eq!((events.len(), error), (1, Some(SseError::NotUtf8)));
    assert_eq!(data(b": \xFF\ndata: a\n\n"), ["a"], "a comment may hold anything");
}

#[test]
fn an_event_cut_by_the_end_is_given_out_by_finish_only() {
    assert_eq!(read([b"data: [DONE]".as_slice()], false).0, []);
    for body in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r"] {
        assert_eq!(read([body.as_bytes()], true).0[0].data, "[DONE]", "{body:?}");
    }
    assert_eq!(read([b"data: a\n\n".as_slice()], true).0.len(), 1);
    assert_eq!(read([b"".as_slice()], true), (vec![], None));
}

#[test]
fn a_long_line_or_event_is_an_error_and_errors_are_final() {
    let exact = format!("data:{}\n\n", "x".repeat(MAX_LINE_BYTES - 5));
    assert_eq!(data(exact.as_bytes())[0].len(), MAX_LINE_BYTES - 5);
    let line = format!("data:{}", "x".repeat(MAX_LINE_BYTES));
    assert_eq!(read([line.as_bytes()], false).1, Some(SseError::LineTooLong), "without waiting for its end");
    assert_eq!(read(line.as_bytes().chunks(4096), false).1, Some(SseError::LineTooLong));
    let event = format!("data:{}\n", "x".repeat(1000)).repeat(1100);
    assert_eq!(read(event.as_bytes().chunks(4096), false).1, Some(SseError::EventTooLong));

    let mut parser = SseParser::new();
    parser.push(line.as_bytes()).unwrap();
    assert_eq!(parser.next_event(), Err(SseError::LineTooLong));
    assert_eq!(parser.push(b"\n\ndata: a\n\n"), Err(SseError::LineTooLong));
    assert_eq!(parser.next_event(), Err(SseError::LineTooLong));
}

#[test]
fn unread_bytes_are_bounded() {
    let mut parser = SseParser::new();
    let chunk = vec![b'\n'; MAX_UNREAD_BYTES / 2];
    parser.push(&chunk).unwrap();
    parser.push(&chunk).unwrap();
    assert_eq!(parser.push(b"\n"), Err(SseError::UnreadTooLong));
}

fn lines() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"data: ".to_vec()),
        Just(b"data".to_vec()),
        Just(b"event: error".to_vec()),
        Just(b":".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n\n".to_vec()),
        Just(BOM.to_vec()),
        "[a-zé🦀]{0,4}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..3),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(body in lines(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]);
        let whole = read([body.as_slice()], true);
        prop_assert_eq!(&read(pieces, true), &whole);
        prop_assert_eq!(&read(body.chunks(1), true), &whole);
    }

    #[test]
    fn what_a_server_writes_is_what_is_read(texts in proptest::collection::vec("[^\r\n]{0,20}", 0..10)) {
        let body: String = texts.iter().map(|text| format!("data: {text}\n\n")).collect();
        prop_assert_eq!(data(body.as_bytes()), texts);
    }
}
