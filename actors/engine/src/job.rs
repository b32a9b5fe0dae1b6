//! One request inside the engine: its tokens, its text, its end, and the numbering of what is said about it.
//!
//! Pure. A token that ends generation (EOG) is not part of the output: it is neither counted in `completion_tokens` nor
//! listed in a piece. A token that completes a stop string is both, though its text is not sent.

use crate::{backend::Token, text::GeneratedText};
use spillway_actors::gpu::frame::{
    ECHO_TOKENS, JobEvent, JobFailure, JobFailureKind, JobId, JobOutput, JobSpec, PromptToken, StopReason, TokenLogprob,
};

/// The prompt as it is said before the answer.
#[derive(Debug)]
pub struct Echoing {
    text: String,
    /// Alternatives wanted with each token; `None` = the text is all.
    scored: Option<usize>,
    /// How many tokens are known.
    known: usize,
    unsent: Vec<PromptToken>,
}

impl Echoing {
    pub const fn new(text: String, scored: Option<usize>) -> Self {
        Self { text, scored, known: 0, unsent: Vec::new() }
    }
}

#[derive(Debug)]
pub struct Job {
    id: JobId,
    /// Prompt, then generated tokens.
    tokens: Vec<Token>,
    prompt_len: usize,
    max_tokens: usize,
    text: GeneratedText,
    /// Sampled, not yet in a piece.
    unsent: Vec<Token>,
    /// Of `unsent`, when the job asked for them.
    unsent_logprobs: Vec<TokenLogprob>,
    /// The prompt, to be said before anything else.
    echo: Option<Echoing>,
    /// Tokens that mark calls are part of the text.
    markers: bool,
    /// Prompt tokens that were not computed for this job.
    cached: usize,
    next_output: u32,
    accepted: bool,
}

impl Job {
    /// A job before its replay.
    pub fn new(spec: &JobSpec, prompt: Vec<Token>, echo: Option<Echoing>) -> Self {
        Self {
            id: spec.job,
            prompt_len: prompt.len(),
            tokens: prompt,
            max_tokens: usize::try_from(spec.max_tokens).unwrap_or(usize::MAX),
            text: GeneratedText::new(&spec.stop, spec.sent_bytes),
            unsent: Vec::new(),
            unsent_logprobs: Vec::new(),
            echo,
            markers: spec.markers,
            cached: 0,
            next_output: 0,
            accepted: false,
        }
    }

    /// Prompt and generated tokens, in the order of their positions.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Generated tokens, replayed ones included.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Whether tokens that mark calls are part of the text.
    pub const fn shows_markers(&self) -> bool {
        self.markers
    }

    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Adds a token generated before this engine had the job: part of the text, but of no piece.
    pub fn replay(&mut self, token: Token, piece: &[u8], is_end: bool) -> Option<StopReason> {
        let end = self.add(token, piece, is_end);
        self.unsent.clear();
        end
    }

    /// Adds a sampled token. Returns why the job ends with it, if it does.
    pub fn sampled(
        &mut self,
        token: Token,
        piece: &[u8],
        is_end: bool,
        max_request_tokens: usize,
        logprob: Option<TokenLogprob>,
    ) -> Option<StopReason> {
        let end = self.add(token, piece, is_end);
        if !is_end {
            self.unsent_logprobs.extend(logprob);
        }
        end.or_else(|| (self.tokens.len() >= max_request_tokens).then_some(StopReason::Length))
    }

    fn add(&mut self, token: Token, piece: &[u8], is_end: bool) -> Option<StopReason> {
        if is_end {
            return Some(StopReason::Stop);
        }
        self.tokens.push(token);
        self.unsent.push(token);
        self.text.push(piece);
        if let Some(which) = self.text.stopped() {
            return Some(StopReason::StopText(u32::try_from(which).unwrap_or(u32::MAX)));
        }
        (self.generated() >= self.max_tokens).then_some(StopReason::Length)
    }

    /// Says, once, that a sequence was given. Later calls (a job that was preempted) say nothing.
    pub fn accepted(&mut self, cached: usize) -> Option<JobOutput> {
        if std::mem::replace(&mut self.accepted, true) {
            return None;
        }
        self.cached = cached;
        let (prompt_tokens, cached_tokens) = (count(self.prompt_len), self.cached_tokens());
        Some(self.output(JobEvent::Accepted { prompt_tokens, cached_tokens }))
    }

    /// The prompt's text, once, if nothing else of it is wanted. After [`accepted`](Self::accepted).
    pub fn echoed(&mut self) -> Option<JobOutput> {
        let Echoing { text, .. } = self.echo.take_if(|echo| echo.scored.is_none())?;
        Some(self.output(JobEvent::Echoed { text, tokens: Vec::new(), done: true }))
    }

    /// Alternatives wanted with each of the prompt's tokens; `None` = nothing is wanted of them (any more).
    pub fn scored(&self) -> Option<usize> {
        self.echo.as_ref()?.scored
    }

    /// Whether nothing is known of the prompt's tokens, which are wanted.
    pub fn is_unscored(&self) -> bool {
        self.echo.as_ref().is_some_and(|echo| echo.scored.is_some() && echo.known == 0)
    }

    /// Whether the prompt's token after `position` is wanted and not known.
    pub fn lacks_score(&self, position: usize) -> bool {
        let next = position + 1;
        next < self.prompt_len && self.echo.as_ref().is_some_and(|echo| echo.scored.is_some() && next >= echo.known)
    }

    /// The prompt's next token. Says what has come together, if it is enough or all.
    pub fn score(&mut self, token: PromptToken) -> Option<JobOutput> {
        let echo = self.echo.as_mut()?;
        echo.unsent.push(token);
        echo.known += 1;
        let done = echo.known >= self.prompt_len;
        if !done && echo.unsent.len() < ECHO_TOKENS {
            return None;
        }
        let (text, tokens) = (std::mem::take(&mut echo.text), std::mem::take(&mut echo.unsent));
        if done {
            self.echo = None;
        }
        Some(self.output(JobEvent::Echoed { text, tokens, done }))
    }

    /// More tokens were taken from another job's cells.
    pub fn gained(&mut self, tokens: usize) {
        self.cached += tokens;
    }

    /// What was kept of it is gone: everything is computed for this job after all.
    pub fn begins_again(&mut self) {
        self.cached = 0;
    }

    fn cached_tokens(&self) -> u32 {
        count(self.cached.min(self.prompt_len))
    }

    /// What is new since the last piece, if anything is.
    pub fn piece(&mut self) -> Option<JobOutput> {
        let (text, tokens) = (self.text.take(), std::mem::take(&mut self.unsent));
        let logprobs = std::mem::take(&mut self.unsent_logprobs);
        if text.is_empty() && tokens.is_empty() {
            return None;
        }
        Some(self.output(JobEvent::Piece { text, tokens, logprobs }))
    }

    /// The last words of a job that ended well: the held-back text, then the end.
    pub fn finished(mut self, reason: StopReason) -> Vec<JobOutput> {
        self.text.finish();
        let piece = self.piece();
        let event = JobEvent::Finished {
            reason,
            prompt_tokens: count(self.prompt_len),
            completion_tokens: count(self.generated()),
            cached_tokens: self.cached_tokens(),
        };
        let end = self.output(event);
        piece.into_iter().chain([end]).collect()
    }

    /// The last word of a job that did not. Held-back text is not sent: it may be the beginning of a stop string, and the
    /// job may go on elsewhere.
    pub fn failed(mut self, failure: JobFailure) -> JobOutput {
        self.output(JobEvent::Failed(failure))
    }

    fn output(&mut self, event: JobEvent) -> JobOutput {
        let seq = self.next_output;
        self.next_output = self.next_output.saturating_add(1);
        JobOutput { job: self.id, seq, event }
    }
}

/// A failure and its text, which must not contain prompt text.
pub fn failure(kind: JobFailureKind, message: impl Into<String>) -> JobFailure {
    JobFailure { kind, message: message.into(), param: None }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_actors::gpu::frame::{Prompt, Sampling};

    fn spec(max_tokens: u32, stop: &[&str]) -> JobSpec {
        JobSpec {
            job: 4,
            prompt: Prompt::Tokens(vec![1, 2]),
            sampling: Sampling::default(),
            max_tokens,
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            replay: vec![],
            sent_bytes: 0,
            canary: false,
            logprobs: None,
            logit_bias: vec![],
            grammar: None,
            markers: false,
            cache_scope: 0,
        }
    }

    fn job(max_tokens: u32, stop: &[&str]) -> Job {
        Job::new(&spec(max_tokens, stop), vec![1, 2], None)
    }

    #[test]
    fn the_last_allowed_token_ends_the_job() {
        let mut job = job(2, &[]);
        assert_eq!(job.sampled(7, b"a", false, 100, None), None);
        assert_eq!(job.sampled(8, b"b", false, 100, None), Some(StopReason::Length));
    }

    #[test]
    fn a_full_context_ends_the_job() {
        assert_eq!(job(50, &[]).sampled(7, b"a", false, 3, None), Some(StopReason::Length));
    }

    #[test]
    fn an_end_token_is_neither_counted_nor_listed() {
        let mut job = job(9, &[]);
        assert_eq!(job.sampled(0, b"", true, 100, None), Some(StopReason::Stop));
        let events: Vec<JobEvent> = job.finished(StopReason::Stop).into_iter().map(|output| output.event).collect();
        let end =
            JobEvent::Finished { reason: StopReason::Stop, prompt_tokens: 2, completion_tokens: 0, cached_tokens: 0 };
        assert_eq!(events, [end]);
    }

    #[test]
    fn outputs_are_numbered_without_gaps_and_held_text_comes_before_the_end() {
        let mut job = job(9, &["xyz"]);
        let mut outputs = vec![job.accepted(0).unwrap()];
        assert_eq!(job.accepted(0), None);
        job.sampled(7, b"axy", false, 100, None);
        outputs.extend(job.piece());
        outputs.extend(job.finished(StopReason::Length));
        assert_eq!(outputs.iter().map(|output| output.seq).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(outputs[1].event, JobEvent::Piece { text: "a".into(), tokens: vec![7], logprobs: vec![] });
        assert_eq!(outputs[2].event, JobEvent::Piece { text: "xy".into(), tokens: vec![], logprobs: vec![] });
    }

    #[test]
    fn an_echo_is_said_once_before_everything_else() {
        let mut job = Job::new(&spec(2, &[]), vec![1, 2], Some(Echoing::new("ab".into(), None)));
        assert!(job.scored().is_none() && !job.lacks_score(0));
        let mut outputs: Vec<JobOutput> = job.accepted(0).into_iter().chain(job.echoed()).collect();
        assert_eq!(job.echoed(), None);
        job.sampled(7, b"c", false, 100, None);
        outputs.extend(job.piece());
        assert_eq!(outputs[1].event, JobEvent::Echoed { text: "ab".into(), tokens: vec![], done: true });
        assert_eq!(outputs[2].event, JobEvent::Piece { text: "c".into(), tokens: vec![7], logprobs: vec![] });
        assert_eq!(outputs.iter().map(|output| output.seq).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_scored_prompt_comes_in_parts_and_its_text_with_the_first() {
        let prompt: Vec<Token> = (0..300).collect();
        let mut job = Job::new(&spec(2, &[]), prompt, Some(Echoing::new("text".into(), Some(2))));
        assert_eq!((job.echoed(), job.scored()), (None, Some(2)));
        let token = |token| PromptToken { token, bytes: vec![], logprob: None, top: vec![] };
        assert!(job.lacks_score(0) && !job.lacks_score(299));
        let said: Vec<JobEvent> = (0..300).filter_map(|at| job.score(token(at))).map(|output| output.event).collect();
        let shapes: Vec<_> = said
            .iter()
            .map(|event| match event {
                JobEvent::Echoed { text, tokens, done } => (text.as_str(), tokens.len(), *done),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shapes, [("text", ECHO_TOKENS, false), ("", 300 - ECHO_TOKENS, true)]);
        assert!(job.scored().is_none() && !job.lacks_score(5), "computed again, it is not said again");
    }

    #[test]
    fn a_token_that_completes_a_stop_string_counts_and_its_text_is_not_sent() {
        let mut job = job(9, &["b"]);
        assert_eq!(job.sampled(7, b"ab", false, 100, None), Some(StopReason::StopText(0)));
        let outputs = job.finished(StopReason::StopText(0));
        assert_eq!(outputs[0].event, JobEvent::Piece { text: "a".into(), tokens: vec![7], logprobs: vec![] });
        assert!(matches!(outputs[1].event, JobEvent::Finished { completion_tokens: 1, .. }));
    }
}
