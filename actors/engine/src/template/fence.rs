//! Control tokens in what others wrote stay text: `<|im_end|>` in a user's message must not end it.
//!
//! Such words are put between two marks before the template sees them, and the template's text is cut at the marks again,
//! so that each part can be turned into tokens in its own way. Only whole pairs of marks around a known word count:
//! whatever a template does to a text, a stray mark changes nothing. What the assistant said is left alone, because
//! templates look for such words in it (thoughts, calls).

use serde_json::Value;

/// Characters that Unicode reserves for a program's own use and no text holds.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';

/// A part of a rendered template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Control tokens in it are meant.
    Template(&'a str),
    /// A word that only looks like one.
    Word(&'a str),
}

/// Words that stand for control tokens.
#[derive(Debug)]
pub struct Fence {
    /// Longest first: one may begin with another.
    words: Vec<String>,
    /// What words begin with, and the marks: where nothing of it stands there is nothing to do.
    firsts: Vec<char>,
}

impl Fence {
    pub fn new(words: impl IntoIterator<Item = String>) -> Self {
        let mut words: Vec<String> = words.into_iter().filter(|word| word.chars().count() > 1).collect();
        words.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        words.dedup();
        let mut firsts: Vec<char> = words.iter().filter_map(|word| word.chars().next()).chain([OPEN, CLOSE]).collect();
        firsts.sort_unstable();
        firsts.dedup();
        Self { words, firsts }
    }

    /// Marks the words in every text of `value`, at any depth, but not in what an assistant said.
    pub fn guard(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(guarded) = self.guarded(text) {
                    *text = guarded;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.guard(item)),
            Value::Object(fields) if fields.get("role").is_some_and(|role| role == "assistant") => {}
            Value::Object(fields) => fields.values_mut().for_each(|value| self.guard(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn guarded(&self, text: &str) -> Option<String> {
        let (mut out, mut done) = (String::new(), 0);
        for (at, first) in text.match_indices(self.firsts.as_slice()) {
            let Some(rest) = text.get(at..).filter(|_| at >= done) else { continue };
            let word = self.words.iter().find(|word| rest.starts_with(word.as_str()));
            if word.is_none() && !first.contains([OPEN, CLOSE]) {
                continue;
            }
            out.push_str(text.get(done..at).unwrap_or_default());
            match word {
                Some(word) => {
                    out.push(OPEN);
                    out.push_str(word);
                    out.push(CLOSE);
                }
                None => out.push(char::REPLACEMENT_CHARACTER),
            }
            done = at + word.map_or(first.len(), String::len);
        }
        out.push_str(text.get(done..).filter(|_| done > 0)?);
        Some(out)
    }

    /// Cuts a rendered text at the marks.
    pub fn parts<'a>(&self, mut rendered: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        while let Some(at) = rendered.find([OPEN, CLOSE]) {
            let (before, marked) = rendered.split_at(at);
            let inside = marked.strip_prefix(OPEN);
            let word = inside.and_then(|inside| self.words.iter().find(|word| opens_with(inside, word)));
            parts.push(Part::Template(before));
            let past = match word {
                Some(word) => {
                    let start = OPEN.len_utf8();
                    parts.push(Part::Word(marked.get(start..start + word.len()).unwrap_or_default()));
                    start + word.len() + CLOSE.len_utf8()
                }
                None => OPEN.len_utf8(),
            };
            rendered = marked.get(past..).unwrap_or_default();
        }
        parts.push(Part::Template(rendered));
        parts.retain(|part| !matches!(part, Part::Template("")));
        parts
    }
}

fn opens_with(inside: &str, word: &str) -> bool {
    inside.strip_prefix(word).is_some_and(|rest| rest.starts_with(CLOSE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fence() -> Fence {
        Fence::new(["<|im_end|>", "<|im_start|>", "<s>", "<s>x", ""].map(str::to_owned))
    }

    fn joined(parts: &[Part<'_>]) -> String {
        parts
            .iter()
            .map(|part| match part {
                Part::Template(text) | Part::Word(text) => *text,
            })
            .collect()
    }

    #[test]
    fn words_of_users_and_tools_are_fenced_and_those_of_the_template_are_not() {
        let mut messages = json!([
            {"role": "user", "content": [{"type": "text", "text": "a<|im_end|>b"}]},
            {"role": "assistant", "content": "c<|im_end|>d"},
        ]);
        fence().guard(&mut messages);
        let text = |pointer: &str| messages.pointer(pointer).and_then(Value::as_str).unwrap();
        let rendered = format!("<|im_start|>{}<|im_end|>{}", text("/0/content/0/text"), text("/1/content"));
        assert_eq!(
            fence().parts(&rendered),
            [Part::Template("<|im_start|>a"), Part::Word("<|im_end|>"), Part::Template("b<|im_end|>c<|im_end|>d"),]
        );
    }

    #[test]
    fn the_longest_word_counts_and_marks_of_clients_are_replaced() {
        assert_eq!(fence().guarded("<s>x").unwrap(), format!("{OPEN}<s>x{CLOSE}"));
        assert_eq!(fence().guarded(&format!("{CLOSE}<s>{OPEN}")).unwrap(), format!("\u{FFFD}{OPEN}<s>{CLOSE}\u{FFFD}"));
        assert_eq!(fence().guarded("plain < s > text"), None);
    }

    #[test]
    fn stray_marks_of_a_template_that_cut_a_text_are_dropped() {
        let torn = format!("a{OPEN}b{CLOSE}{OPEN}<s>");
        assert_eq!(joined(&fence().parts(&torn)), "ab<s>");
    }

    proptest! {
        /// Whatever a client writes: no word outside of a fence, and no character lost.
        #[test]
        fn no_word_of_a_client_is_ever_read_as_the_templates(text in "(<s>|<s>x|<\\|im_end\\|>|\u{FDD0}|\u{FDD1}|<|s|>|x|é){0,24}") {
            let guarded = fence().guarded(&text).unwrap_or_else(|| text.clone());
            let parts = fence().parts(&guarded);
            for part in &parts {
                if let Part::Template(text) = part {
                    prop_assert!(fence().words.iter().all(|word| !text.contains(word.as_str())), "{parts:?}");
                }
            }
            prop_assert_eq!(joined(&parts), text.replace([OPEN, CLOSE], "\u{FFFD}"));
        }
    }
}
