//! The part of a prompt that is read: its beginning and its end. The middle of a long prompt is mostly pasted material
//! and costs time; nothing here copies text.

/// Characters read from the beginning.
pub const HEAD_CHARS: usize = 3000;
/// Characters read from the end of a prompt that is longer.
pub const TAIL_CHARS: usize = 1000;

/// What is read of a prompt. The two parts never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window<'a> {
    pub head: &'a str,
    pub tail: &'a str,
}

impl<'a> Window<'a> {
    pub fn of(prompt: &'a str) -> Self {
        let end_of_head = prompt.char_indices().nth(HEAD_CHARS).map_or(prompt.len(), |(at, _)| at);
        let (head, rest) = prompt.split_at(end_of_head);
        let start_of_tail = rest.char_indices().rev().nth(TAIL_CHARS - 1).map_or(0, |(at, _)| at);
        let (_, tail) = rest.split_at(start_of_tail);
        Self { head, tail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_prompt_is_read_whole() {
        assert_eq!(Window::of("what is it?"), Window { head: "what is it?", tail: "" });
        assert_eq!(Window::of(""), Window { head: "", tail: "" });
    }

    #[test]
    fn of_a_long_prompt_only_both_ends_are_read() {
        let prompt = format!("{}{}{}", "é".repeat(HEAD_CHARS), "m".repeat(50_000), "漢".repeat(TAIL_CHARS));
        let window = Window::of(&prompt);
        assert_eq!(window.head, "é".repeat(HEAD_CHARS));
        assert_eq!(window.tail, "漢".repeat(TAIL_CHARS));
    }

    proptest! {
        #[test]
        fn the_parts_are_a_prefix_and_a_suffix_and_never_overlap(prompt in "\\PC{0,6000}") {
            let window = Window::of(&prompt);
            prop_assert!(prompt.starts_with(window.head));
            prop_assert!(prompt.ends_with(window.tail));
            prop_assert!(window.head.len() + window.tail.len() <= prompt.len());
        }
    }
}
