//! How many tokens a text may be, when nobody has counted. Pure; knows no tokenizer.

use super::Delta;
use serde_json::Value;

/// Texts counted so far. Tokenizers make about one token of four letters of European text, one of two letters of most
/// other scripts, and one of each character of Chinese, Japanese and Korean or of an emoji.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextCount {
    /// Quarters of a token.
    quarters: u64,
    /// At most, not about.
    cautious: bool,
}

impl TextCount {
    pub fn of(text: &str) -> Self {
        let mut count = Self::default();
        count.text(text);
        count
    }

    /// Counts more than tokenizers do, also of what they take apart: digits, base64, rare scripts.
    pub fn cautious() -> Self {
        Self { cautious: true, ..Self::default() }
    }

    /// Nothing yet, to be counted the same way.
    #[must_use]
    pub fn anew(self) -> Self {
        Self { quarters: 0, ..self }
    }

    pub fn text(&mut self, text: &str) {
        self.quarters += match (self.cautious, text.is_ascii()) {
            (false, true) => text.len() as u64,
            (false, false) => text.chars().map(quarters).sum(),
            (true, _) => text.chars().map(most_quarters).sum(),
        };
    }

    /// Everything that was generated for this delta: text, reasoning, refusals, names and arguments of tool calls.
    pub fn delta(&mut self, delta: &Delta) {
        if let Some(text) = &delta.content {
            self.text(text);
        }
        for (_, value) in &delta.other {
            self.said(value);
        }
    }

    /// Every text inside, but for what the provider and not the model wrote.
    fn said(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().for_each(|item| self.said(item)),
            Value::Object(fields) => {
                let said = fields.iter().filter(|(name, _)| !matches!(name.as_str(), "id" | "type" | "index" | "role"));
                said.for_each(|(_, value)| self.said(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// JSON that goes into the prompt (tool definitions, schemas): names count as well.
    pub fn json(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().for_each(|item| self.json(item)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    // The name, its quotes and its colon.
                    self.quarters += name.len() as u64 + 4;
                    self.json(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.quarters += 4,
        }
    }

    /// Rounded up.
    pub fn tokens(self) -> u64 {
        self.quarters.div_ceil(4)
    }
}

/// At most of a token, for one character. A tokenizer that knows no word of a text takes it apart: letters in pairs,
/// everything else one by one, and what it has never seen into bytes.
fn most_quarters(character: char) -> u64 {
    match character {
        'a'..='z' | ' ' => 2,
        '\0'..='\x7f' => 4,
        // Scripts with tokens for most of their characters.
        '\u{80}'..='\u{52F}' | '\u{3040}'..='\u{30FF}' | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}' => 8,
        _ => 4 * character.len_utf8() as u64,
    }
}

/// Of a token, for one character.
fn quarters(character: char) -> u64 {
    match u32::from(character) {
        0..0x80 => 1,
        0x80..0x250 | 0x2000..0x2070 => 2,
        // Chinese, Japanese, Korean; wide forms; emoji and everything else above the basic plane.
        0x1100..0x1200 | 0x2E80..0xD800 | 0xF900..0xFB00 | 0xFE30..0xFE50 | 0xFF00.. => 4,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn delta(content: Option<&str>, other: Value) -> Delta {
        let Value::Object(other) = other else { panic!("an object") };
        Delta { content: content.map(str::to_owned), other, ..Delta::default() }
    }

    #[test]
    fn scripts_are_counted_by_their_own_measure() {
        for (text, tokens) in [
            ("", 0),
            ("abcd", 1),
            ("hello world", 3),
            ("你好世界", 4),
            ("こんにちは", 5),
            ("안녕", 2),
            ("🦀", 1),
            ("Привет", 3),
            ("déjà vu", 3),
        ] {
            assert_eq!(TextCount::of(text).tokens(), tokens, "{text}");
        }
    }

    #[test]
    fn what_is_set_aside_is_more_than_a_tokenizer_makes_of_it() {
        let most = |text: &str| {
            let mut count = TextCount::cautious();
            count.text(text);
            count.tokens()
        };
        // Tokens of the default model's tokenizer, for each character: 0.8, 1, 3 and 2.5.
        for (text, tokens) in [("3QzXk9bV0aWx1", 10), ("4711", 4), ("\u{e000}", 3), ("བོད", 8)] {
            assert!(most(text) >= tokens, "{text}: {}", most(text));
        }
        assert!(most("an ordinary sentence of ten short words, and no more") < 33, "twice the usual count at most");
    }

    #[test]
    fn tool_calls_and_reasoning_are_output_and_their_ids_are_not() {
        let mut count = TextCount::default();
        count.delta(&delta(Some("abcd"), json!({})));
        count.delta(&delta(
            None,
            json!({"tool_calls": [{"index": 0, "id": "call_very_long_id", "type": "function",
                "function": {"name": "look", "arguments": "{\"city\":1}"}}]}),
        ));
        count.delta(&delta(None, json!({"reasoning_content": "because"})));
        // 4 + (4 + 10) + 7 letters.
        assert_eq!(count.tokens(), 25_u64.div_ceil(4));
    }

    proptest! {
        #[test]
        fn pieces_count_as_much_as_the_whole(text in "\\PC{0,80}", at in 0_usize..80) {
            let at = text.char_indices().map(|(at, _)| at).nth(at).unwrap_or(text.len());
            let mut pieces = TextCount::of(&text[..at]);
            pieces.text(&text[at..]);
            prop_assert_eq!(pieces, TextCount::of(&text));
            prop_assert!(pieces.tokens() <= text.chars().count() as u64);
        }
    }
}
