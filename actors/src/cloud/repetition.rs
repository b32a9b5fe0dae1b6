//! Cuts an answer's beginning off a continuation that repeats it, piece by piece. Pure.
//!
//! While the continuation's text is the same as the answer's beginning it is withheld. Then either
//! - all of the answer so far has come again: it is cut, and what follows goes through;
//! - it went another way after a long common beginning: the model began anew, and nothing of it may be shown;
//! - it went another way after a short one: a coincidence, and all of it goes through.
//!
//! A text that is nothing but repetitions of its own beginning is expected to go on so: there nothing is cut. A repeated
//! *tail* is never cut: it cannot be told from a text that says something twice.

/// A common beginning of this many bytes is taken for no coincidence, and an answer shorter than this says too little to
/// be recognised. A mistake costs an honest error; the other one, a text that says its beginning twice.
const TELLING_BYTES: usize = 16;

/// The continuation is another answer from the start: whoever was asked does not honour a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BegunAnew;

/// Reads one continuation in order.
#[derive(Debug)]
pub struct RepetitionCutter {
    /// What may come again.
    sent: String,
    /// What has come again so far, with the white space before it.
    held: String,
    /// Bytes of `sent` that `held` ends with.
    matched: usize,
    open: bool,
}

impl RepetitionCutter {
    /// `sent` is what the client has.
    pub fn new(sent: &str) -> Self {
        // White space around the seam is the first thing a repetition gets wrong.
        let sent = sent.trim_start().to_owned();
        let open = sent.len() >= TELLING_BYTES && !repeats_itself(sent.as_bytes());
        Self { sent, held: String::new(), matched: 0, open }
    }

    /// Takes the next piece and gives what may be shown now.
    ///
    /// # Errors
    /// Nothing of the continuation may be shown; none of it was.
    pub fn push(&mut self, piece: &str) -> Result<String, BegunAnew> {
        if !self.open {
            return Ok(piece.to_owned());
        }
        let before = self.held.len();
        self.held.push_str(piece);
        let fresh = if self.matched == 0 {
            let text = self.held.trim_start();
            if text.is_empty() {
                return Ok(String::new());
            }
            self.held.len() - text.len()
        } else {
            before
        };
        let (due, came) = (&self.sent.as_bytes()[self.matched..], &self.held.as_bytes()[fresh..]);
        let same = due.iter().zip(came).take_while(|(due, came)| due == came).count();
        self.matched += same;
        if self.matched == self.sent.len() {
            self.open = false;
            return Ok(std::mem::take(&mut self.held).split_off(fresh + same));
        }
        if same == came.len() {
            return Ok(String::new());
        }
        self.release()
    }

    /// The continuation has ended, `cut` by its length or by itself: what is still withheld. A repetition that was cut before it
    /// could tell itself apart is not shown: the answer ends by its length all the same, only a few bytes sooner.
    ///
    /// # Errors
    /// As [`push`](Self::push): it ended before it had repeated all, and none of it was new.
    pub fn finish(&mut self, cut: bool) -> Result<String, BegunAnew> {
        let held = self.release()?;
        let is_repetition = cut && self.matched > 0;
        Ok(if is_repetition { String::new() } else { held })
    }

    fn release(&mut self) -> Result<String, BegunAnew> {
        if self.open && self.matched >= TELLING_BYTES {
            return Err(BegunAnew);
        }
        self.open = false;
        Ok(std::mem::take(&mut self.held))
    }
}

/// Whether the text is one piece said at least twice and nothing more.
fn repeats_itself(text: &[u8]) -> bool {
    let period = text.len() - longest_border(text);
    period < text.len() && text.len().is_multiple_of(period)
}

/// Length of the longest proper beginning that is also the end (the failure function of Knuth, Morris and Pratt).
fn longest_border(text: &[u8]) -> usize {
    let mut borders = vec![0; text.len()];
    let mut length = 0;
    for at in 1..text.len() {
        while length > 0 && text[at] != text[length] {
            length = borders[length - 1];
        }
        length += usize::from(text[at] == text[length]);
        borders[at] = length;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SENT: &str = "The tide comes in twice a day, ";

    /// What is shown of a continuation that comes in these pieces.
    fn shown(sent: &str, pieces: &[&str]) -> Result<String, BegunAnew> {
        let mut cutter = RepetitionCutter::new(sent);
        let mut text = String::new();
        for piece in pieces {
            text += &cutter.push(piece)?;
        }
        Ok(text + &cutter.finish(false)?)
    }

    #[test]
    fn a_continuation_that_goes_on_is_untouched() {
        assert_eq!(shown(SENT, &["and goes ", "out again."]).unwrap(), "and goes out again.");
    }

    #[test]
    fn the_answer_said_again_is_cut_however_it_is_split() {
        let again = format!("{SENT}and goes out.");
        assert_eq!(shown(SENT, &[&again]).unwrap(), "and goes out.");
        assert_eq!(shown(SENT, &again.split_inclusive(' ').collect::<Vec<_>>()).unwrap(), "and goes out.");
        assert_eq!(shown(SENT, &["\n", " ", &again]).unwrap(), "and goes out.", "white space before it goes, too");
        assert_eq!(shown(&format!("\n{SENT}"), &[&again]).unwrap(), "and goes out.");
        assert_eq!(shown(SENT, &[SENT]).unwrap(), "", "nothing new, but all of it");
    }

    #[test]
    fn a_coincidence_is_released_whole() {
        assert_eq!(shown(SENT, &["The ti", "mes change."]).unwrap(), "The times change.");
        assert_eq!(shown(SENT, &["The"]).unwrap(), "The", "it ended as it began");
        assert_eq!(shown("No. No. ", &["No. No. No."]).unwrap(), "No. No. No.", "too short to tell");
        let row = "| a | b |\n| a | b |\n";
        assert_eq!(shown(row, &[row]).unwrap(), row, "it repeats itself anyway");
    }

    #[test]
    fn an_answer_begun_anew_is_recognised_before_anything_is_shown() {
        let long = "Photosynthesis is the process by which plants turn light into sugar, water and ";
        let other = "Photosynthesis is the process by which plants turn light into sugar, and it ";
        assert_eq!(shown(long, &[&other[..30], &other[30..]]), Err(BegunAnew));
        assert_eq!(shown(SENT, &["The tide comes in"]), Err(BegunAnew), "its cap ended it");
    }

    #[test]
    fn a_repetition_that_its_length_has_cut_short_is_not_shown() {
        let cut = |pieces: &[&str]| {
            let mut cutter = RepetitionCutter::new(SENT);
            let text: String = pieces.iter().map(|piece| cutter.push(piece).unwrap()).collect();
            text + &cutter.finish(true).unwrap()
        };
        assert_eq!(cut(&["The "]), "", "all that was left of the cap");
        assert_eq!(cut(&["The ti", "mes change"]), "The times change", "it was none");
        assert_eq!(cut(&["and goes"]), "and goes");
        assert_eq!(cut(&[SENT, "and"]), "and");
    }

    fn pieces(text: &str, cuts: &[usize]) -> Vec<String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        for cut in cuts {
            let at = (0..=(*cut).min(rest.len())).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(0);
            let (piece, after) = rest.split_at(at);
            pieces.push(piece.to_owned());
            rest = after;
        }
        pieces.push(rest.to_owned());
        pieces
    }

    proptest! {
        /// Bytes sent before the cut and bytes of the continuing target's own log make the client's text: all of them,
        /// or all but one whole repetition of what was sent, whatever the split.
        #[test]
        fn no_byte_is_lost_and_none_doubled(
            sent in "[abé\n ]{0,40}", repeats: bool, rest in "[abé\n ]{0,40}", cuts in prop::collection::vec(0..9_usize, 0..12),
        ) {
            let log = if repeats { format!("{sent}{rest}") } else { rest };
            let split = pieces(&log, &cuts);
            let split: Vec<&str> = split.iter().map(String::as_str).collect();
            let whole = shown(&sent, &[&log]);
            prop_assert_eq!(&whole, &shown(&sent, &split), "the split decides nothing");
            let Ok(whole) = whole else {
                let (sent, log) = (sent.trim_start(), log.trim_start());
                let common = sent.bytes().zip(log.bytes()).take_while(|(a, b)| a == b).count();
                prop_assert!(common >= TELLING_BYTES && common < sent.len(), "a refusal without a reason");
                return Ok(());
            };
            if whole != log {
                let cut = log.strip_suffix(whole.as_str());
                prop_assert_eq!(cut.map(str::trim_start), Some(sent.trim_start()), "exactly the answer so far is cut");
                prop_assert!(sent.trim_start().len() >= TELLING_BYTES);
            }
        }

        /// A continuation of other words is never touched.
        #[test]
        fn what_begins_otherwise_goes_through_at_once(sent in "[a-m ]{1,80}", rest in "[n-z][a-z ]{0,80}") {
            let mut cutter = RepetitionCutter::new(&sent);
            prop_assert_eq!(cutter.push(&rest), Ok(rest));
        }
    }
}
