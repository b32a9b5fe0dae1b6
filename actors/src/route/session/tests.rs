//! What is recognised, what is forgotten, and that nothing grows.

use super::*;
use crate::domain::Caller;
use proptest::prelude::*;
use std::time::Duration;

const HERE: TargetKey = TargetKey::Gpu { slot: 0, epoch: 1 };
const THERE: TargetKey = TargetKey::Cloud { provider: 0, model: 2 };

fn sessions(max_sessions: usize) -> Sessions {
    Sessions::new(SessionConfig { ttl: Duration::from_secs(60), max_sessions, ..SessionConfig::default() })
}

/// A conversation whose turns are alternately the user's and the assistant's.
fn talk(turns: &[&str]) -> ChatRequest {
    let message = |(at, text): (usize, &&str)| Message {
        role: if at % 2 == 0 { "user" } else { "assistant" }.to_owned(),
        content: (*text).to_owned(),
        raw: serde_json::Map::new(),
    };
    ChatRequest { input: Input::Messages(turns.iter().enumerate().map(message).collect()), ..ChatRequest::plain("") }
}

#[tokio::test(start_paused = true)]
async fn the_next_turn_finds_its_tier_and_the_holder_of_its_cache() {
    let (sessions, now) = (sessions(8), Instant::now());
    let first = sessions.conversation(&talk(&["prove it"]));
    assert_eq!(sessions.recall(&first, now), Recalled::NOTHING);
    sessions.note(&first, Some(Complexity::Complex), HERE, now);
    let second = sessions.conversation(&talk(&["prove it", "so be it", "thanks"]));
    let recalled = sessions.recall(&second, now);
    assert_eq!(recalled.tier, Some(Complexity::Complex));
    assert_eq!(recalled.cached_at(HERE), Some(2 + 4));
    assert_eq!(recalled.cached_at(TargetKey::Gpu { slot: 0, epoch: 2 }), None, "a new engine has no cache");
    let other = sessions.conversation(&talk(&["prove that", "so be it", "thanks"]));
    assert_eq!(sessions.recall(&other, now), Recalled::NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_of_one_caller_is_none_of_anothers() {
    let (sessions, now) = (sessions(8), Instant::now());
    let of = |key: &str| ChatRequest {
        session: Some("ours".into()),
        caller: Some(Arc::new(Caller::unlimited(key))),
        ..talk(&["prove it"])
    };
    sessions.note(&sessions.conversation(&of("ann")), Some(Complexity::Premium), HERE, now);
    let recalled = |request: &ChatRequest| sessions.recall(&sessions.conversation(request), now);
    assert_eq!(recalled(&of("bob")), Recalled::NOTHING);
    assert_eq!(recalled(&ChatRequest { caller: None, ..of("ann") }), Recalled::NOTHING);
    assert_eq!(recalled(&of("ann")).tier, Some(Complexity::Premium));
}

#[tokio::test(start_paused = true)]
async fn the_longest_known_prefix_wins_and_a_retried_turn_finds_the_one_before() {
    let (sessions, now) = (sessions(8), Instant::now());
    sessions.note(&sessions.conversation(&talk(&["a"])), None, HERE, now);
    sessions.note(&sessions.conversation(&talk(&["a", "b", "c"])), None, THERE, now);
    let at = |turns: &[&str]| sessions.recall(&sessions.conversation(&talk(turns)), now).cache.unwrap().0;
    assert_eq!(at(&["a", "b", "c", "d", "e"]), THERE);
    assert_eq!(at(&["a", "b", "another"]), HERE);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_is_never_graded_down_until_its_time_is_over() {
    let (sessions, now) = (sessions(8), Instant::now());
    let named = ChatRequest { session: Some("mine".into()), ..ChatRequest::plain("hello") };
    let conversation = sessions.conversation(&named);
    sessions.note(&conversation, Some(Complexity::Complex), HERE, now);
    sessions.note(&conversation, Some(Complexity::Trivial), HERE, now + Duration::from_secs(59));
    let tier_at = |seconds| sessions.recall(&conversation, now + Duration::from_secs(seconds)).tier;
    assert_eq!(tier_at(118), Some(Complexity::Complex), "each turn keeps it alive");
    assert_eq!(tier_at(119), None);
    let renamed = ChatRequest { session: Some("yours".into()), ..named };
    assert_eq!(sessions.recall(&sessions.conversation(&renamed), now).tier, None);
}

#[tokio::test(start_paused = true)]
async fn a_first_message_alone_is_no_conversation_and_another_user_is_another_one() {
    let (sessions, now) = (sessions(8), Instant::now());
    let conversation = sessions.conversation(&talk(&["hello"]));
    sessions.note(&conversation, Some(Complexity::Premium), HERE, now);
    assert_eq!(sessions.recall(&conversation, now).tier, None, "the same question again is a new conversation");
    let mut other = talk(&["hello", "hi", "more"]);
    assert_eq!(sessions.recall(&sessions.conversation(&other), now).tier, Some(Complexity::Premium));
    other.body.insert("user".into(), "somebody".into());
    assert_eq!(sessions.recall(&sessions.conversation(&other), now), Recalled::NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_remembers_nothing() {
    let (sessions, now) = (sessions(0), Instant::now());
    let named = ChatRequest { session: Some("mine".into()), ..ChatRequest::plain("hello") };
    let conversation = sessions.conversation(&named);
    sessions.note(&conversation, Some(Complexity::Complex), HERE, now);
    assert_eq!(sessions.recall(&conversation, now), Recalled::NOTHING);
}

#[test]
fn no_text_is_kept_and_another_process_hashes_differently() {
    let named = ChatRequest { session: Some("secret name".into()), ..talk(&["secret text"]) };
    let (one, other) = (sessions(8), sessions(8));
    assert_eq!(one.conversation(&named), one.conversation(&named));
    assert_ne!(one.conversation(&named), other.conversation(&named));
    assert!(!format!("{one:?} {:?}", one.conversation(&named)).contains("secret"));
}

proptest! {
    #[test]
    fn the_table_stays_bounded_and_keeps_the_latest(
        writes in proptest::collection::vec((0..40_u8, 0..30_u64), 1..300), limit in 1..20_usize
    ) {
        let mut memory = Memory::new(limit, Duration::from_secs(100));
        let mut now = Instant::now();
        for (at, (name, pause)) in writes.into_iter().enumerate() {
            now += Duration::from_secs(pause);
            let id = [name; 16];
            memory.put(id, at, now);
            prop_assert_eq!(memory.get(&id, now), Some(at));
            prop_assert_eq!(memory.get(&id, now + Duration::from_secs(100)), None);
            let (kept, order) = memory.sizes();
            prop_assert!(kept <= limit && order <= 2 * limit, "{} kept, {} in order", kept, order);
        }
    }

    #[test]
    fn any_conversation_of_bounded_or_unbounded_length_is_recognised_again(
        texts in proptest::collection::vec("\\PC{0,600}", 0..40)
    ) {
        let sessions = sessions(8);
        let turns: Vec<&str> = texts.iter().map(String::as_str).collect();
        let conversation = sessions.conversation(&talk(&turns));
        let now = Instant::now();
        sessions.note(&conversation, None, HERE, now);
        let goes_on: Vec<&str> = turns.iter().copied().chain(["a", "b", "c"]).collect();
        let recalled = sessions.recall(&sessions.conversation(&talk(&goes_on)), now);
        prop_assert_eq!(recalled.cache.map(|(key, _)| key), (!turns.is_empty()).then_some(HERE));
    }
}
