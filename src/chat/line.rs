//! A line being written: keys in, text and cursor out, and what was written before. Pure; knows no terminal.

/// Lines that can be brought back.
const KEPT: usize = 500;

/// What a person does to the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    Insert(String),
    Backspace,
    Delete,
    /// The word before the cursor.
    EraseWord,
    EraseToStart,
    EraseToEnd,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Older,
    Newer,
    /// Ctrl-C: away with it.
    Drop,
    /// Ctrl-D: the end, if nothing is written; else as Delete.
    EndOfInput,
    Enter,
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Edited,
    Entered(String),
    /// It was dropped; `true`: there was nothing to drop.
    Dropped(bool),
    Ended,
}

#[derive(Debug, Default)]
pub(super) struct Line {
    text: Vec<char>,
    cursor: usize,
    written: Vec<String>,
    /// Which of `written` is shown; its length: none.
    at: usize,
    /// What was being written before something older was brought back.
    draft: Vec<char>,
}

impl Line {
    pub(super) fn edit(&mut self, edit: Edit) -> Step {
        match edit {
            Edit::Insert(text) => self.insert(&text),
            Edit::Backspace => self.erase(self.cursor.saturating_sub(1), self.cursor),
            Edit::Delete => self.erase(self.cursor, self.cursor + 1),
            Edit::EraseWord => self.erase(self.word_left(), self.cursor),
            Edit::EraseToStart => self.erase(0, self.cursor),
            Edit::EraseToEnd => self.erase(self.cursor, self.text.len()),
            Edit::Left => self.cursor = self.cursor.saturating_sub(1),
            Edit::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            Edit::WordLeft => self.cursor = self.word_left(),
            Edit::WordRight => self.cursor = self.word_right(),
            Edit::Home => self.cursor = 0,
            Edit::End => self.cursor = self.text.len(),
            Edit::Older => self.bring(self.at.saturating_sub(1)),
            Edit::Newer => self.bring((self.at + 1).min(self.written.len())),
            Edit::Drop => {
                let was_empty = self.text.is_empty();
                self.clear();
                return Step::Dropped(was_empty);
            }
            Edit::EndOfInput if self.text.is_empty() => return Step::Ended,
            Edit::EndOfInput => self.erase(self.cursor, self.cursor + 1),
            Edit::Enter => return Step::Entered(self.enter()),
        }
        Step::Edited
    }

    /// The text, and how many characters of it stand before the cursor.
    pub(super) fn shown(&self) -> (String, usize) {
        (self.text.iter().collect(), self.cursor)
    }

    fn insert(&mut self, text: &str) {
        let text: Vec<char> = text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect();
        let count = text.len();
        self.text.splice(self.cursor..self.cursor, text);
        self.cursor += count;
    }

    fn erase(&mut self, from: usize, to: usize) {
        self.text.drain(from..to.min(self.text.len()));
        self.cursor = from;
    }

    fn word_left(&self) -> usize {
        let before = &self.text[..self.cursor];
        let end = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |at| at + 1);
        before[..end].iter().rposition(|c| c.is_whitespace()).map_or(0, |at| at + 1)
    }

    fn word_right(&self) -> usize {
        let after = &self.text[self.cursor..];
        let start = after.iter().position(|c| !c.is_whitespace()).unwrap_or(after.len());
        let end = after[start..].iter().position(|c| c.is_whitespace()).unwrap_or(after.len() - start);
        self.cursor + start + end
    }

    fn bring(&mut self, at: usize) {
        if self.at == self.written.len() {
            self.draft.clone_from(&self.text);
        }
        self.at = at;
        self.text = self.written.get(at).map_or_else(|| self.draft.clone(), |line| line.chars().collect());
        self.cursor = self.text.len();
    }

    fn enter(&mut self) -> String {
        let text: String = self.text.iter().collect();
        if !text.trim().is_empty() && self.written.last() != Some(&text) {
            self.written.push(text.clone());
            if self.written.len() > KEPT {
                self.written.remove(0);
            }
        }
        self.clear();
        text
    }

    fn clear(&mut self) {
        self.text.clear();
        self.draft.clear();
        self.cursor = 0;
        self.at = self.written.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(line: &mut Line, text: &str) {
        assert_eq!(line.edit(Edit::Insert(text.to_owned())), Step::Edited);
    }

    #[test]
    fn a_line_is_edited_where_the_cursor_stands() {
        let mut line = Line::default();
        typed(&mut line, "hello wörld");
        line.edit(Edit::WordLeft);
        typed(&mut line, "big ");
        assert_eq!(line.shown(), ("hello big wörld".to_owned(), 10));
        line.edit(Edit::EraseWord);
        line.edit(Edit::End);
        line.edit(Edit::Backspace);
        line.edit(Edit::Home);
        line.edit(Edit::Delete);
        assert_eq!(line.shown(), ("ello wörl".to_owned(), 0));
        line.edit(Edit::WordRight);
        line.edit(Edit::EraseToEnd);
        assert_eq!(line.edit(Edit::Enter), Step::Entered("ello".to_owned()));
        assert_eq!(line.shown(), (String::new(), 0));
    }

    #[test]
    fn what_was_written_comes_back_and_so_does_the_draft() {
        let mut line = Line::default();
        for text in ["one", "two", "two", "  "] {
            typed(&mut line, text);
            line.edit(Edit::Enter);
        }
        typed(&mut line, "draft");
        let mut seen = Vec::new();
        for edit in [Edit::Older, Edit::Older, Edit::Older, Edit::Newer, Edit::Newer, Edit::Newer] {
            line.edit(edit);
            seen.push(line.shown().0);
        }
        assert_eq!(seen, ["two", "one", "one", "two", "draft", "draft"]);
    }

    #[test]
    fn ctrl_c_drops_what_is_written_and_ctrl_d_ends_only_an_empty_line() {
        let mut line = Line::default();
        typed(&mut line, "x");
        line.edit(Edit::Home);
        assert_eq!(line.edit(Edit::EndOfInput), Step::Edited);
        assert_eq!(line.edit(Edit::EndOfInput), Step::Ended);
        typed(&mut line, "y");
        assert_eq!(line.edit(Edit::Drop), Step::Dropped(false));
        assert_eq!(line.edit(Edit::Drop), Step::Dropped(true));
    }

    proptest! {
        #[test]
        fn no_edit_leads_out_of_the_line(edits in proptest::collection::vec(0usize..17, 0..60)) {
            let mut line = Line::default();
            let all = [Edit::Insert("a b".to_owned()), Edit::Insert("é\u{1b}[x\n".to_owned()), Edit::Backspace, Edit::Delete, Edit::EraseWord,
                Edit::EraseToStart, Edit::EraseToEnd, Edit::Left, Edit::Right, Edit::WordLeft, Edit::WordRight, Edit::Home,
                Edit::End, Edit::Older, Edit::Newer, Edit::Drop, Edit::Enter];
            for edit in edits {
                line.edit(all[edit].clone());
                let (text, cursor) = line.shown();
                prop_assert!(cursor <= text.chars().count());
                prop_assert!(!text.chars().any(|character| character.is_control() && character != '\n'));
            }
        }
    }
}
