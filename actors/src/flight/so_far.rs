//! What an attempt has taken so far, kept where it outlives the attempt: a flight that leaves it (its client gone, its time
//! over) accounts for it from here. Of a paid one nobody tells the rest, so what the provider may bill beyond what came is
//! reckoned: little, and never more than what was set aside. Pure.

use crate::domain::{Delta, TextCount, TokenUsage};
use std::time::Duration;
use tokio::time::Instant;

/// Tokens a second that a provider makes unseen at least: before its first visible token (it may be thinking), or while
/// nobody reads. Few large models are faster.
const UNSEEN_PACE: f64 = 50.0;
/// Between our hanging up and the provider's last token: what is on its way, and its notice of the closed connection.
const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// And as many tokens beside, since providers make them in steps of several.
const BESIDE: u64 = 16;
/// A pace is not measured over less: the first tokens often come together.
const LEAST_SPAN: Duration = Duration::from_millis(250);

/// Who waits so long for a provider's next token has read all that it had sent.
const CAUGHT_UP: Duration = Duration::from_millis(20);

/// Our count of a provider's tokens may be several times too high: above so many times what it was asked for, and so many
/// beside, it is none.
const OVERRUN: u64 = 4;
const OVERRUN_BESIDE: u64 = 256;

/// One attempt, as far as it has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct SoFar {
    began: Instant,
    /// What came, as it was counted, told or estimated.
    pub(super) usage: TokenUsage,
    /// A provider's output.
    text: TextCount,
    pieces: u64,
    first: Option<Instant>,
    last: Instant,
    /// The reader of the answer takes nothing since then.
    held_since: Option<Instant>,
    /// How long the reader took over what it was shown, since the provider was last waited for: meanwhile more was made and
    /// lies unread.
    held: Duration,
    released: Option<Instant>,
    /// The provider has said its last word.
    is_over: bool,
}

impl SoFar {
    /// Of a target that counts its own tokens, and tells.
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            usage: TokenUsage::default(),
            text: TextCount::default(),
            pieces: 0,
            first: None,
            last: began,
            held_since: None,
            held: Duration::ZERO,
            released: None,
            is_over: false,
        }
    }

    /// Of one that may never tell: the prompt as estimated.
    pub(super) fn asked(began: Instant, prompt_tokens: u64) -> Self {
        let usage = TokenUsage { prompt_tokens, estimated: true, ..TokenUsage::default() };
        Self { usage, ..Self::new(began) }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn first_token(&self) -> Option<Duration> {
        self.first.map(|first| first.duration_since(self.began))
    }

    /// A token came.
    pub(super) fn heard(&mut self, now: Instant) {
        // Waited for since the last one was taken, which is at once if its reader took no time.
        let since = self.released.take().unwrap_or(self.last);
        if now.saturating_duration_since(since) >= CAUGHT_UP {
            self.held = Duration::ZERO;
        }
        self.first.get_or_insert(now);
        self.last = now;
    }

    /// Visible output came, and with it what was `told` of its tokens.
    pub(super) fn delta(&mut self, delta: &Delta, told: Option<TokenUsage>, now: Instant) {
        self.heard(now);
        self.text.delta(delta);
        self.pieces += 1;
        let seen = self.seen().max(self.usage.completion_tokens);
        if let Some(told) = told {
            self.usage = TokenUsage { estimated: true, ..told };
        }
        self.usage.completion_tokens = self.usage.completion_tokens.max(seen);
    }

    /// Tokens of a provider's output as we count them: by its text, and at least one for each piece.
    pub(super) fn seen(&self) -> u64 {
        self.text.tokens().max(self.pieces)
    }

    /// Whether this is far more than the `most` that was asked for, by pieces and by text: no limit holds it.
    pub(super) fn overruns(&self, most: u64) -> bool {
        self.pieces.min(self.text.tokens()) > most.saturating_mul(OVERRUN).saturating_add(OVERRUN_BESIDE)
    }

    /// The whole count.
    pub(super) fn over(&mut self, usage: TokenUsage) {
        (self.usage, self.is_over) = (usage, true);
    }

    /// Whether the answer's reader is taking its time.
    pub(super) fn held(&mut self, since: Option<Instant>) {
        self.held_since = since;
    }

    /// The reader, who may have taken its time, has taken what it was shown at `since`.
    pub(super) fn released(&mut self, since: Instant, now: Instant) {
        self.held += now.saturating_duration_since(since);
        (self.held_since, self.released) = (None, Some(now));
    }

    /// What is accounted for if it is left now; `most` output was set aside for it.
    pub(super) fn left(&self, most: u64, now: Instant) -> TokenUsage {
        if self.is_over {
            return self.usage;
        }
        let completion_tokens = self.usage.completion_tokens.saturating_add(self.unseen(now)).min(most);
        TokenUsage { completion_tokens, estimated: true, ..self.usage }
    }

    fn unseen(&self, now: Instant) -> u64 {
        let span = self.first.map_or(LEAST_SPAN, |first| self.last.duration_since(first)).max(LEAST_SPAN);
        let pace = (self.usage.completion_tokens as f64 / span.as_secs_f64()).max(UNSEEN_PACE);
        let since = if self.first.is_none() { Some(self.began) } else { self.held_since };
        let since = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let unseen = since + self.held + ON_ITS_WAY;
        BESIDE.saturating_add((pace * unseen.as_secs_f64()).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 4096;

    fn text(text: &str) -> Delta {
        Delta { content: Some(text.into()), ..Delta::default() }
    }

    /// A token every 20 ms, after a quarter of a second.
    fn after_tokens(began: Instant, tokens: u32) -> (SoFar, Instant) {
        let mut so_far = SoFar::asked(began, 10);
        let mut now = began + Duration::from_millis(250);
        for _ in 0..tokens {
            now += Duration::from_millis(20);
            so_far.delta(&text("tok "), None, now);
        }
        (so_far, now)
    }

    #[test]
    fn a_stream_that_is_left_costs_what_came_and_a_little_more() {
        let (so_far, now) = after_tokens(Instant::now(), 145);
        let left = so_far.left(MOST, now);
        assert_eq!((left.prompt_tokens, left.estimated), (10, true));
        assert!((145 + BESIDE..=145 + 40).contains(&left.completion_tokens), "{left:?}");
        assert_eq!(so_far.left(150, now).completion_tokens, 150, "never more than was set aside");
        assert_eq!(
            so_far.left(MOST, now + Duration::from_secs(60)),
            left,
            "who waits for a silent provider sees it all"
        );
    }

    #[test]
    fn what_is_left_before_its_first_token_costs_by_the_time_it_took() {
        let began = Instant::now();
        let so_far = SoFar::asked(began, 10);
        let after = |millis| so_far.left(MOST, began + Duration::from_millis(millis)).completion_tokens;
        assert!(after(0) < 40 && after(200) < 50, "{} {}", after(0), after(200));
        assert!(after(10_000) >= 500, "it may have been thinking");
        assert_eq!(after(3_600_000), MOST);
    }

    #[test]
    fn a_reader_that_stops_does_not_stop_its_provider() {
        let (mut so_far, now) = after_tokens(Instant::now(), 100);
        so_far.held(Some(now));
        let left = so_far.left(MOST, now + Duration::from_secs(4)).completion_tokens;
        assert!((300..=350).contains(&left), "fifty a second for another four: {left}");
    }

    #[test]
    fn a_slow_reader_leaves_what_its_provider_has_made_meanwhile_until_it_has_caught_up() {
        let (mut so_far, mut now) = after_tokens(Instant::now(), 50);
        for _ in 0..50 {
            so_far.released(now, now + Duration::from_millis(170));
            now += Duration::from_millis(170);
            so_far.delta(&text("tok "), None, now);
        }
        let left = so_far.left(MOST, now).completion_tokens;
        assert!((500..=560).contains(&left), "a hundred, and fifty a second for another eight and a half: {left}");
        let mut caught_up = so_far;
        caught_up.released(now, now);
        caught_up.delta(&text("tok "), None, now + CAUGHT_UP);
        assert!(caught_up.left(MOST, now + CAUGHT_UP).completion_tokens < 140, "it was waited for: nothing is unread");
        let soon = now + CAUGHT_UP / 2;
        so_far.delta(&text("tok "), None, soon);
        assert!(so_far.left(MOST, soon).completion_tokens >= 500, "what comes at once may have lain there");
        so_far.delta(&text("tok "), None, soon + CAUGHT_UP);
        let left = so_far.left(MOST, soon + CAUGHT_UP).completion_tokens;
        assert!(left < 140, "so is who takes it at once: {left}");
    }

    #[test]
    fn tokens_that_came_at_once_are_no_pace() {
        let began = Instant::now();
        let mut so_far = SoFar::asked(began, 10);
        for _ in 0..4 {
            so_far.delta(&text("tok "), None, began);
        }
        assert!(so_far.left(MOST, began).completion_tokens < 40);
    }

    #[test]
    fn what_a_provider_tells_counts_and_its_last_word_is_the_whole() {
        let began = Instant::now();
        let mut so_far = SoFar::asked(began, 10);
        let told = TokenUsage { prompt_tokens: 12, completion_tokens: 700, cached_tokens: 4, ..TokenUsage::default() };
        so_far.delta(&text("a"), Some(told), began);
        let left = so_far.left(MOST, began);
        assert_eq!((left.prompt_tokens, left.cached_tokens, left.estimated), (12, 4, true));
        assert!(left.completion_tokens > 700);
        let less = TokenUsage { completion_tokens: 1, ..told };
        so_far.delta(&text("b"), Some(less), began);
        assert!(so_far.left(MOST, began).completion_tokens > 700, "what was seen stays seen");
        so_far.over(told);
        assert_eq!(so_far.left(MOST, began), told);
    }

    #[test]
    fn an_answer_without_an_end_is_known_by_its_pieces_and_its_text() {
        let began = Instant::now();
        let (mut long, mut words, mut endless) =
            (SoFar::asked(began, 1), SoFar::asked(began, 1), SoFar::asked(began, 1));
        long.delta(&text(&"-".repeat(9000)), None, began);
        for _ in 0..700 {
            words.delta(&text("a"), None, began);
            endless.delta(&text("word "), None, began);
        }
        assert_eq!(words.seen(), 700, "a piece is a token at least");
        assert!(!long.overruns(100) && !words.overruns(100), "a few tokens may be long, and many short");
        assert!(endless.overruns(100) && !endless.overruns(200));
    }
}
