//! The line editor at the terminal: keys become edits of a `Line`, the line is drawn on stderr. The terminal is raw only while a line
//! is being written, and is given back however that ends.

use super::line::{Edit, Line, Step};
use crossterm::{
    cursor::MoveToColumn,
    event::{
        DisableBracketedPaste, EnableBracketedPaste, Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
    },
    execute, queue,
    style::Print,
    terminal::{self, Clear, ClearType},
};
use futures_util::StreamExt;
use ratatui::text::Span;
use std::io::{self, Write};

const PROMPT: &str = "› ";
const NARROWEST: usize = 20;

/// What a person decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Say(String),
    /// Ctrl-C on an empty line.
    Nothing,
    End,
}

struct Raw;

impl Raw {
    fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let raw = Self;
        execute!(io::stderr(), EnableBracketedPaste)?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = execute!(io::stderr(), DisableBracketedPaste);
        let _ = terminal::disable_raw_mode();
    }
}

/// Waits for a line.
pub(super) async fn read(line: &mut Line) -> io::Result<Wish> {
    let _raw = Raw::enter()?;
    let mut events = EventStream::new();
    draw(line)?;
    loop {
        let Some(event) = events.next().await else { return Ok(Wish::End) };
        let Some(edit) = edit_of(event?) else {
            draw(line)?;
            continue;
        };
        match line.edit(edit) {
            Step::Edited | Step::Dropped(false) => draw(line)?,
            step => {
                execute!(io::stderr(), Print("\r\n"))?;
                return Ok(match step {
                    Step::Entered(text) => Wish::Say(text),
                    Step::Ended => Wish::End,
                    _ => Wish::Nothing,
                });
            }
        }
    }
}

/// As much of the line as fits around the cursor.
fn draw(line: &Line) -> io::Result<()> {
    let columns = terminal::size().map_or(80, |(columns, _)| usize::from(columns)).max(NARROWEST);
    let (text, cursor) = line.shown();
    let (shown, column) = window(&text, cursor, columns - width(PROMPT) - 1);
    let column = u16::try_from(width(PROMPT) + column).unwrap_or(u16::MAX);
    let mut out = io::stderr();
    queue!(out, MoveToColumn(0), Print(PROMPT), Print(shown), Clear(ClearType::UntilNewLine), MoveToColumn(column))?;
    out.flush()
}

/// The part of a line that fits, and the cursor's column in it.
fn window(text: &str, cursor: usize, columns: usize) -> (String, usize) {
    let glyphs: Vec<char> = text
        .chars()
        .map(|c| {
            if c == '\n' {
                '⏎'
            } else if c == '\t' {
                ' '
            } else {
                c
            }
        })
        .collect();
    let mut from = cursor.min(glyphs.len());
    let mut before = 0;
    while from > 0 && before + glyph_width(glyphs[from - 1]) <= columns {
        from -= 1;
        before += glyph_width(glyphs[from]);
    }
    let mut shown = String::new();
    let mut used = 0;
    for glyph in &glyphs[from..] {
        used += glyph_width(*glyph);
        if used > columns {
            break;
        }
        shown.push(*glyph);
    }
    (shown, before)
}

fn width(text: &str) -> usize {
    Span::raw(text).width()
}

fn glyph_width(glyph: char) -> usize {
    width(glyph.encode_utf8(&mut [0; 4]))
}

fn edit_of(event: Event) -> Option<Edit> {
    match event {
        Event::Paste(text) => Some(Edit::Insert(text.replace("\r\n", "\n").replace('\r', "\n"))),
        Event::Key(key) if key.kind != KeyEventKind::Release => edit_of_key(key),
        _ => None,
    }
}

fn edit_of_key(KeyEvent { code, modifiers, .. }: KeyEvent) -> Option<Edit> {
    let control = modifiers.contains(KeyModifiers::CONTROL);
    let alt = modifiers.contains(KeyModifiers::ALT);
    Some(match code {
        KeyCode::Char('c') if control => Edit::Drop,
        KeyCode::Char('d') if control => Edit::EndOfInput,
        KeyCode::Char('a') if control => Edit::Home,
        KeyCode::Char('e') if control => Edit::End,
        KeyCode::Char('b') if control => Edit::Left,
        KeyCode::Char('f') if control => Edit::Right,
        KeyCode::Char('u') if control => Edit::EraseToStart,
        KeyCode::Char('k') if control => Edit::EraseToEnd,
        KeyCode::Char('w') if control => Edit::EraseWord,
        KeyCode::Char('h') if control => Edit::Backspace,
        KeyCode::Char('p') if control => Edit::Older,
        KeyCode::Char('n') if control => Edit::Newer,
        // What Enter is where it was pressed before the terminal was raw.
        KeyCode::Char('j') if control => Edit::Enter,
        KeyCode::Char('b') if alt => Edit::WordLeft,
        KeyCode::Char('f') if alt => Edit::WordRight,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(character) => Edit::Insert(character.to_string()),
        // Alt-Enter goes on in the next line of the same message.
        KeyCode::Enter if alt => Edit::Insert("\n".to_owned()),
        KeyCode::Enter => Edit::Enter,
        KeyCode::Backspace => Edit::Backspace,
        KeyCode::Delete => Edit::Delete,
        KeyCode::Left if control || alt => Edit::WordLeft,
        KeyCode::Right if control || alt => Edit::WordRight,
        KeyCode::Left => Edit::Left,
        KeyCode::Right => Edit::Right,
        KeyCode::Home => Edit::Home,
        KeyCode::End => Edit::End,
        KeyCode::Up => Edit::Older,
        KeyCode::Down => Edit::Newer,
        KeyCode::Tab => Edit::Insert(" ".to_owned()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_always_in_sight() {
        assert_eq!(window("hello", 5, 80), ("hello".to_owned(), 5));
        assert_eq!(window("0123456789", 10, 4), ("6789".to_owned(), 4));
        assert_eq!(window("0123456789", 0, 4), ("0123".to_owned(), 0));
        assert_eq!(window("漢字漢字", 4, 5), ("漢字".to_owned(), 4), "wide characters take two columns");
        assert_eq!(window("a\nb", 3, 80), ("a⏎b".to_owned(), 3));
    }

    #[test]
    fn keys_do_what_shells_have_taught_people() {
        let key = |code, modifiers| edit_of(Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Edit::Drop));
        assert_eq!(key(KeyCode::Char('C'), KeyModifiers::SHIFT), Some(Edit::Insert("C".to_owned())));
        assert_eq!(key(KeyCode::Enter, KeyModifiers::ALT), Some(Edit::Insert("\n".to_owned())));
        assert_eq!(key(KeyCode::F(1), KeyModifiers::NONE), None);
        assert_eq!(edit_of(Event::Paste("a\r\nb".to_owned())), Some(Edit::Insert("a\nb".to_owned())));
    }
}
