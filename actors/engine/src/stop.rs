//! Finds stop strings in text that arrives in pieces, holding back what may still become one.
//!
//! The match that *completes* first wins, and of those the one that begins first: read character by character, that is
//! the only rule under which the answer does not depend on how the text was split. The stop text itself, and everything
//! after it, is never passed on.

/// Watches one job's text for its stop strings.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The longest suffix of the text so far that a stop string may begin with.
    held: String,
    /// Which of the strings was met.
    stopped: Option<usize>,
}

impl StopMatcher {
    /// Empty stop strings are ignored: they would end every text before it began.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new(), stopped: None }
    }

    /// Which of the strings was met.
    pub const fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// Appends to `out` what of `text` can be shown by now. Returns whether a stop string has been met, now or earlier.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stopped.is_some() {
            return true;
        }
        self.held.push_str(text);
        if let Some((start, which)) = self.first_match() {
            out.push_str(self.held.get(..start).unwrap_or_default());
            self.held.clear();
            self.stopped = Some(which);
            return true;
        }
        let keep = self.held.len() - self.possible_prefix_len();
        out.extend(self.held.drain(..keep));
        false
    }

    /// The text has ended without a stop string: what was held back is text after all.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.held));
    }

    fn strings(&self) -> impl Iterator<Item = (usize, &String)> {
        self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty())
    }

    /// Start of the occurrence that ends first, and of which string it is.
    fn first_match(&self) -> Option<(usize, usize)> {
        let at = |(which, stop): (usize, &String)| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at, which));
        self.strings().filter_map(at).min().map(|(_, start, which)| (start, which))
    }

    /// Length of the longest suffix of `held` that is the beginning of a stop string.
    fn possible_prefix_len(&self) -> usize {
        // What is held is short, whatever the strings are.
        let longest = |(_, stop): (usize, &String)| {
            let mut rests = self.held.char_indices().filter_map(|(at, _)| self.held.get(at..));
            rests.find(|rest| rest.len() < stop.len() && stop.starts_with(rest)).map(str::len)
        };
        self.strings().filter_map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let (mut matcher, mut out, mut stopped) = (StopMatcher::new(&stops), String::new(), false);
        for piece in pieces {
            stopped = matcher.push(piece, &mut out);
        }
        matcher.finish(&mut out);
        (out, stopped)
    }

    #[test]
    fn a_stop_string_across_pieces_is_found_and_not_shown() {
        assert_eq!(run(&["\n\nUser:"], &["Hello\n", "\nUs", "er: more"]), ("Hello".into(), true));
    }

    #[test]
    fn what_only_began_like_a_stop_string_is_shown_at_the_end() {
        assert_eq!(run(&["END"], &["the EN"]), ("the EN".into(), false));
    }

    #[test]
    fn nothing_that_may_become_a_stop_string_is_shown_early() {
        let (mut matcher, mut out) = (StopMatcher::new(&["abc".into()]), String::new());
        assert!(!matcher.push("xab", &mut out));
        assert_eq!(out, "x");
        assert!(!matcher.push("ab", &mut out));
        assert_eq!(out, "xab");
        assert!(matcher.push("c", &mut out));
        assert_eq!(out, "xab");
    }

    #[test]
    fn the_match_that_completes_first_wins() {
        assert_eq!(run(&["abcd", "bc"], &["abcd"]), ("a".into(), true));
    }

    #[test]
    fn empty_stop_strings_stop_nothing() {
        assert_eq!(run(&[""], &["text"]), ("text".into(), false));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_text(
            text in "[abé]{0,24}",
            stops in proptest::collection::vec("[abé]{0,4}", 0..3),
            cuts in proptest::collection::vec(0usize..24, 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(chars.len())).chain([0, chars.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|w| chars[w[0]..w[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (split, split_stopped) = run(&stops, &pieces);
            let (whole, whole_stopped) = run(&stops, &[text.as_str()]);
            prop_assert_eq!(&split, &whole);
            prop_assert_eq!(split_stopped, whole_stopped);
            prop_assert!(text.starts_with(split.as_str()));
            prop_assert!(stops.iter().all(|stop| stop.is_empty() || !split.contains(stop)));
        }
    }
}
