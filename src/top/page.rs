//! What is known, as lines of text of a given width: the same for a screen and for paper. Pure.

mod fleet;
mod overview;
mod requests;
mod table;
mod tree;

use super::{
    board::{Board, Page},
    picture::Level,
};
use crate::chat::clean::one_line;
use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

/// For a page, at most this wide.
pub(super) fn lines(board: &Board, page: Page, width: usize) -> Vec<Line<'static>> {
    let Some(picture) = board.picture() else { return vec![plain("no picture yet")] };
    match page {
        Page::Overview => overview::lines(board, picture, width),
        Page::Fleet => fleet::lines(picture, width),
        Page::Supervision => tree::lines(picture, width),
        Page::Money => overview::money(&picture.status.ledger, width),
        Page::Requests => requests::lines(board.requests(), width),
    }
}

/// Every page, one after the other, as plain text.
pub(super) fn whole(board: &Board, width: usize) -> Vec<String> {
    let version = board.picture().map_or("", |picture| &picture.status.version);
    let mut text = vec![one_line(&format!("spillway {version} · {}", board.admin()))];
    for page in Page::ALL {
        text.extend([String::new(), format!("── {} ", page.name())]);
        let lines = lines(board, page, width);
        text.extend(lines.iter().map(|line| one_line(&line.to_string()).trim_end().to_owned()));
    }
    text
}

pub(super) const EXPLANATION: &[&str] = &[
    "q, Esc, Ctrl-C   end",
    "Tab, Right       the next page (Shift-Tab, Left: the one before; 1 to 5)",
    "Up, Down         scroll; PageUp, PageDown, Home, End",
    "Space            hold the picture, or let it go on",
    "r                try a lost gateway again now",
    "?                this",
    "",
    "Rates are of the last 5 s, percentiles of the last minute's answers, exact. Bars of time cover ten minutes.",
    "Everything here is also at /admin/status, /admin/actors, /admin/requests and /metrics, and in /console.",
];

fn plain(text: impl Into<String>) -> Line<'static> {
    Line::raw(text.into())
}

fn title(text: &str) -> Line<'static> {
    Line::styled(text.to_owned(), Style::new().add_modifier(Modifier::BOLD))
}

fn dim(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Style::new().fg(Color::DarkGray))
}

fn style(level: Level) -> Style {
    match level {
        Level::Ok => Style::new().fg(Color::Green),
        Level::Note => Style::new().fg(Color::Cyan),
        Level::Warn => Style::new().fg(Color::Yellow),
        Level::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

/// A word of state with its sign: colour alone tells not everybody.
fn state(level: Level, word: &str) -> Span<'static> {
    let sign = match level {
        Level::Ok => "●",
        Level::Note => "○",
        Level::Warn => "▲",
        Level::Bad => "✖",
    };
    Span::styled(format!("{sign} {word}"), style(level))
}

/// How full something is, 0 to 1.
fn meter(part: f64, width: usize) -> Span<'static> {
    let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
    let full = (part * width as f64).round() as usize;
    let level = if part > 0.95 { Level::Warn } else { Level::Ok };
    Span::styled(format!("{}{}", "█".repeat(full), "░".repeat(width - full)), style(level))
}

/// The newest values as little bars, the largest as high as a line.
fn spark(values: &[f64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    shown.iter().map(|value| BARS[((value / most * 7.0).ceil().clamp(0.0, 7.0)) as usize]).collect()
}

/// As much of a text as fits, on one line.
fn cut(text: &str, width: usize) -> String {
    let text = one_line(text);
    if Span::raw(&text).width() <= width {
        return text;
    }
    let mut short = String::new();
    for character in text.chars() {
        short.push(character);
        if Span::raw(&short).width() >= width {
            short.pop();
            break;
        }
    }
    short.push('…');
    short
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::examples;
