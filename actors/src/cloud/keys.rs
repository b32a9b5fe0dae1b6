//! The keys of one provider: whose turn it is, which rest after a 429, which the provider refuses. Pure: knows keys by
//! their index, never by their text.

use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Rest after a 429 without Retry-After, the least rest whatever the provider says, and the longest believed.
const REST: Duration = Duration::from_secs(1);
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(300);
/// How long a refused key (401, 402, 403, spent credit) is left alone before one call tries it again; doubles each time.
const REFUSED_MIN: Duration = Duration::from_secs(60);
const REFUSED_MAX: Duration = Duration::from_secs(600);
/// A try of a refused key that never reports is forgotten after this long.
const TRY_LOST: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Refused {
    /// From then on one call may try it.
    until: Instant,
    times: u32,
    /// Since when that call is under way.
    trying: Option<Instant>,
}

#[derive(Debug, Default)]
struct Key {
    resting_until: Option<Instant>,
    /// Rests that the provider imposed for one model only.
    models: BTreeMap<usize, Instant>,
    refused: Option<Refused>,
}

impl Key {
    /// `None`: a call for `model` may use it now. Otherwise when that may change.
    fn free_at(&self, model: usize, now: Instant) -> Option<Instant> {
        let rest = self.resting_until.into_iter().chain(self.models.get(&model).copied()).max();
        let refused = self.refused.map(|refused| match refused.trying {
            Some(since) => since + TRY_LOST,
            None => refused.until,
        });
        rest.into_iter().chain(refused).max().filter(|at| *at > now)
    }
}

/// A key that a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub key: usize,
    /// Of the list that `key` is an index of.
    list: u64,
    /// It was refused before: this one call tries it again.
    pub tries_refused: bool,
    pub since: Instant,
}

/// Why no key is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoKey {
    /// When the earliest may be.
    pub at: Option<Instant>,
    /// Some key is accepted and only rests: the provider limits our rate.
    pub limited: bool,
}

/// One key, for `/admin/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    pub index: usize,
    /// `ready`, `resting`, `exhausted`, or `probing` while one call tries an exhausted key.
    pub state: &'static str,
    /// Until this may change, in milliseconds.
    pub for_ms: u64,
    /// Models it rests for although it is ready for others.
    pub resting_models: Vec<usize>,
}

#[derive(Debug)]
pub struct Keys {
    keys: Vec<Key>,
    next: usize,
    /// Counts the lists there were: what is reported of a key of an older one is about another key.
    list: u64,
}

impl Keys {
    pub fn new(count: usize) -> Self {
        Self { keys: (0..count).map(|_| Key::default()).collect(), next: 0, list: 0 }
    }

    /// Another list of keys: nothing is known of them.
    pub fn replace(&mut self, count: usize) {
        *self = Self { list: self.list + 1, ..Self::new(count) };
    }

    /// What keeps every key from a call for `model` now, if something does.
    pub fn blocked(&self, model: usize, now: Instant) -> Option<NoKey> {
        let free_at = || self.keys.iter().map(|key| key.free_at(model, now));
        if free_at().any(|at| at.is_none()) {
            return None;
        }
        Some(NoKey { at: free_at().flatten().min(), limited: self.keys.iter().any(|key| key.refused.is_none()) })
    }

    /// Whose turn it would be; changes nothing until [`take`](Self::take).
    pub fn turn(&self, model: usize, now: Instant) -> Option<Turn> {
        let count = self.keys.len();
        (0..count)
            .map(|step| (self.next + step) % count)
            .find_map(|key| Some((key, self.keys.get(key).filter(|state| state.free_at(model, now).is_none())?)))
            .map(|(key, state)| Turn { key, list: self.list, tries_refused: state.refused.is_some(), since: now })
    }

    pub fn take(&mut self, turn: Turn) {
        self.next = turn.key + 1;
        if let Some(refused) = self.refused_mut(turn) {
            refused.trying = Some(turn.since);
        }
    }

    /// 429. With a `model`, the provider said that the limit is that model's only.
    pub fn on_limited(&mut self, turn: Turn, model: Option<usize>, retry_after: Option<Duration>, now: Instant) {
        // It is limited, so it is accepted.
        self.on_accepted(turn);
        let until = now + retry_after.unwrap_or(REST).clamp(REST_MIN, REST_MAX);
        let Some(key) = self.key_mut(turn) else { return };
        let rest = match model {
            Some(model) => {
                key.models.retain(|_, until| *until > now);
                key.models.entry(model).or_insert(until)
            }
            None => key.resting_until.get_or_insert(until),
        };
        *rest = until.max(*rest);
    }

    /// 401, 402, 403, spent credit.
    pub fn on_refused(&mut self, turn: Turn, now: Instant) {
        let Some(key) = self.key_mut(turn) else { return };
        let times = match key.refused {
            // Calls that were under way when it was found out say nothing new.
            Some(_) if !turn.tries_refused => return,
            Some(refused) => refused.times.saturating_add(1),
            None => 0,
        };
        let wait = REFUSED_MIN.saturating_mul(1_u32.checked_shl(times.min(31)).unwrap_or(u32::MAX)).min(REFUSED_MAX);
        key.refused = Some(Refused { until: now + wait, times, trying: None });
    }

    /// The provider answered with this key. A call that began before the key was refused proves nothing.
    pub fn on_accepted(&mut self, turn: Turn) {
        if let Some(key) = self.key_mut(turn).filter(|_| turn.tries_refused) {
            key.refused = None;
        }
    }

    /// Nothing was learned about the key: the next call may try it.
    pub fn on_unknown(&mut self, turn: Turn) {
        if let Some(refused) = self.refused_mut(turn).filter(|_| turn.tries_refused) {
            refused.trying = None;
        }
    }

    pub fn exhausted(&self) -> usize {
        self.keys.iter().filter(|key| key.refused.is_some()).count()
    }

    pub fn view(&self, now: Instant) -> Vec<KeyView> {
        self.keys.iter().enumerate().map(|(index, key)| key.view(index, now)).collect()
    }

    fn key_mut(&mut self, turn: Turn) -> Option<&mut Key> {
        if turn.list == self.list { self.keys.get_mut(turn.key) } else { None }
    }

    fn refused_mut(&mut self, turn: Turn) -> Option<&mut Refused> {
        self.key_mut(turn)?.refused.as_mut()
    }
}

impl Key {
    fn view(&self, index: usize, now: Instant) -> KeyView {
        let (state, until) = match (self.refused, self.resting_until) {
            (Some(Refused { trying: Some(_), .. }), _) => ("probing", None),
            (Some(refused), _) => ("exhausted", Some(refused.until)),
            (None, Some(until)) if until > now => ("resting", Some(until)),
            (None, _) => ("ready", None),
        };
        let for_ms = until.map_or(0, |until| until.saturating_duration_since(now).as_millis());
        let resting_models = self.models.iter().filter(|(_, until)| **until > now).map(|(model, _)| *model).collect();
        KeyView { index, state, for_ms: u64::try_from(for_ms).unwrap_or(u64::MAX), resting_models }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn take(keys: &mut Keys, now: Instant) -> Option<Turn> {
        let turn = keys.turn(0, now)?;
        keys.take(turn);
        Some(turn)
    }

    #[tokio::test(start_paused = true)]
    async fn keys_take_turns() {
        let mut keys = Keys::new(3);
        let now = Instant::now();
        let turns: Vec<_> = (0..7).map(|_| take(&mut keys, now).unwrap().key).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(Keys::new(0).turn(0, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn f01_a_limited_key_rests_as_long_as_it_was_told_and_gets_no_call_meanwhile() {
        let mut keys = Keys::new(2);
        let now = Instant::now();
        let first = take(&mut keys, now).unwrap();
        keys.on_limited(first, None, Some(SECOND * 7), now);
        let turns: Vec<_> = (0..50).map(|n| take(&mut keys, now + SECOND * n / 8).unwrap().key).collect();
        assert!(turns.iter().all(|key| *key == 1), "{turns:?}");
        let both: Vec<_> = (0..2).map(|_| take(&mut keys, now + SECOND * 7).unwrap().key).collect();
        assert_eq!(both, [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_capped_has_a_floor_and_is_never_shortened() {
        let mut keys = Keys::new(1);
        let now = Instant::now();
        let turn = take(&mut keys, now).unwrap();
        keys.on_limited(turn, None, Some(Duration::ZERO), now);
        assert_eq!(keys.blocked(0, now), Some(NoKey { at: Some(now + REST_MIN), limited: true }));
        keys.on_limited(turn, None, Some(SECOND * 86_400), now);
        keys.on_limited(turn, None, Some(SECOND), now);
        assert_eq!(keys.blocked(0, now).unwrap().at, Some(now + REST_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_one_model_leaves_the_key_to_the_others() {
        let mut keys = Keys::new(1);
        let now = Instant::now();
        let turn = take(&mut keys, now).unwrap();
        keys.on_limited(turn, Some(0), Some(SECOND * 9), now);
        assert_eq!(keys.turn(0, now), None);
        assert_eq!(keys.turn(1, now).map(|turn| turn.key), Some(0));
        assert_eq!((keys.view(now)[0].state, keys.view(now)[0].resting_models.as_slice()), ("ready", &[0][..]));
        assert!(keys.turn(0, now + SECOND * 9).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn f18_a_refused_key_is_tried_by_one_call_after_a_minute_then_two_up_to_ten() {
        let mut keys = Keys::new(1);
        let mut now = Instant::now();
        let turn = take(&mut keys, now).unwrap();
        let other = take(&mut keys, now).unwrap();
        keys.on_refused(turn, now);
        // Those under way when it was found out change nothing.
        keys.on_refused(other, now);
        keys.on_accepted(other);
        for minutes in [1, 2, 4, 8, 10, 10] {
            assert_eq!(keys.blocked(0, now), Some(NoKey { at: Some(now + SECOND * 60 * minutes), limited: false }));
            assert_eq!((keys.view(now)[0].state, keys.exhausted()), ("exhausted", 1));
            now += SECOND * 60 * minutes;
            let probe = take(&mut keys, now).unwrap();
            assert!(probe.tries_refused);
            assert_eq!(take(&mut keys, now), None, "one try at a time");
            assert_eq!(keys.view(now)[0].state, "probing");
            keys.on_refused(probe, now);
        }
        now += SECOND * 600;
        let probe = take(&mut keys, now).unwrap();
        keys.on_unknown(probe);
        let probe = take(&mut keys, now).unwrap();
        keys.on_accepted(probe);
        assert_eq!((keys.exhausted(), keys.view(now)[0].state), (0, "ready"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_reported_of_an_older_list_of_keys_says_nothing_of_the_present_one() {
        let mut keys = Keys::new(2);
        let now = Instant::now();
        let old = take(&mut keys, now).unwrap();
        keys.replace(1);
        keys.on_refused(old, now);
        keys.on_limited(old, None, None, now);
        assert_eq!((keys.exhausted(), keys.view(now)[0].state), (0, "ready"));
    }

    #[tokio::test(start_paused = true)]
    async fn with_one_key_refused_and_one_resting_the_rate_is_what_limits() {
        let mut keys = Keys::new(2);
        let now = Instant::now();
        let (first, second) = (take(&mut keys, now).unwrap(), take(&mut keys, now).unwrap());
        keys.on_refused(first, now);
        keys.on_limited(second, None, Some(SECOND * 3), now);
        assert_eq!(keys.blocked(0, now), Some(NoKey { at: Some(now + SECOND * 3), limited: true }));
    }
}
