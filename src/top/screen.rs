//! The terminal: draws the board whenever something is new, hands keys to it, and gives the terminal back however that ends, panics
//! included. Decides nothing.

use super::{
    board::{Board, Flow, Link, Page},
    feed::{Admin, Feed},
    page,
};
use crate::{chat::clean::one_line, serve::StopSignals, words::span};
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use ratatui::{
    DefaultTerminal, Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};
use std::{io, time::Duration};
use tokio::time::Instant;

/// How often clocks on the screen are drawn anew when nothing else happens.
const TICK: Duration = Duration::from_millis(500);

/// The terminal, until dropped.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        // Also hooks panics: the screen is given back before the message is printed.
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = ratatui::try_restore();
    }
}

/// Until its person, or a signal, ends it.
pub(super) async fn show(admin: Admin) -> io::Result<()> {
    let mut signals = StopSignals::catch()?;
    let mut board = Board::new(admin.url().to_owned());
    let mut feed = Feed::of(admin);
    let mut screen = Screen::open()?;
    let mut events = EventStream::new();
    let mut ticks = tokio::time::interval(TICK);
    loop {
        screen.0.draw(|frame| draw(frame, &mut board, Instant::now()))?;
        tokio::select! {
            news = feed.news.recv() => match news {
                Some(news) => board.hear(news, Instant::now()),
                None => return Ok(()),
            },
            event = events.next() => match event.transpose()? {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match board.press(key) {
                    Flow::Stay => {}
                    Flow::Quit => return Ok(()),
                    Flow::Retry => feed.retry.notify_one(),
                },
                Some(_) => {}
                None => return Ok(()),
            },
            _ = ticks.tick() => {}
            () = signals.next() => return Ok(()),
        }
    }
}

/// One frame. The board learns how far it can be scrolled.
fn draw(frame: &mut Frame<'_>, board: &mut Board, now: Instant) {
    let [top, tabs, body, keys] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(standing(board, now), top);
    frame.render_widget(names(board.page()), tabs);
    let inner = Rect { y: body.y + u16::from(body.height > 1), height: body.height.saturating_sub(1), ..body };
    let lines = page::lines(board, board.page(), usize::from(inner.width));
    let most = lines.len().saturating_sub(usize::from(inner.height));
    board.scroll = board.scroll.min(most);
    let shown: Vec<Line<'_>> = lines.into_iter().skip(board.scroll).take(usize::from(inner.height)).collect();
    frame.render_widget(Paragraph::new(shown), inner);
    let more = if most > 0 {
        format!(" · lines {}+ of {}", board.scroll + 1, most + usize::from(inner.height))
    } else {
        String::new()
    };
    let help = format!("q end · Tab page · ↑↓ scroll · space hold · ? help{more}");
    frame.render_widget(Paragraph::new(help).style(Style::new().add_modifier(Modifier::DIM)), keys);
    if board.explains {
        explain(frame);
    }
}

/// Who is watched, and whether it is there.
fn standing(board: &Board, now: Instant) -> Line<'static> {
    let version = board.picture().map_or("", |picture| &picture.status.version);
    let (text, style) = match &board.link {
        Link::Connecting => ("connecting …".to_owned(), Style::new().fg(Color::Yellow)),
        Link::Live if board.held => ("held".to_owned(), Style::new().fg(Color::Yellow)),
        Link::Live => ("live".to_owned(), Style::new().fg(Color::Green)),
        Link::Lost { why, since, retry_at } => {
            let gone = span(now.saturating_duration_since(*since).as_secs_f64());
            let wait = span(retry_at.saturating_duration_since(now).as_secs_f64().ceil());
            let text = format!("LOST for {gone}: {}; tried again in {wait}", one_line(why));
            (text, Style::new().fg(Color::Red).add_modifier(Modifier::BOLD))
        }
    };
    let name = format!("spillway {} · {} · ", one_line(version), one_line(board.admin()));
    Line::from(vec![Span::raw(name), Span::styled(text, style)])
}

fn names(current: Page) -> Line<'static> {
    let names = Page::ALL.iter().enumerate().flat_map(|(at, page)| {
        let chosen = if *page == current { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        [Span::styled(format!(" {} {} ", at + 1, page.name()), chosen), Span::raw(" ")]
    });
    Line::from(names.collect::<Vec<_>>())
}

fn explain(frame: &mut Frame<'_>) {
    let area = frame.area();
    let height = u16::try_from(page::EXPLANATION.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let width = area.width.min(112);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let lines: Vec<Line<'_>> = page::EXPLANATION.iter().map(|line| Line::raw(*line)).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), place);
}

#[cfg(test)]
mod tests {
    use super::{super::feed::News, *};
    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use ratatui::{Terminal, backend::TestBackend};

    fn frame(board: &mut Board, width: u16, height: u16, now: Instant) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, board, now)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    fn watched() -> Board {
        let mut board = Board::new("http://127.0.0.1:8081".to_owned());
        for (name, news) in page::examples() {
            board.hear(News::read(name, &news).unwrap(), Instant::now());
        }
        board
    }

    #[test]
    fn the_first_page_says_how_it_is_how_much_and_how_fast() {
        let text = frame(&mut watched(), 110, 30, Instant::now());
        for wanted in [
            "spillway 9.9.9 · http://127.0.0.1:8081 · live",
            " 1 Overview ",
            "▲ serving, with trouble",
            "cloud/gpt-4.1: breaker open: tried again in 12 s",
            "answers/s       3   local      2 cloud      1",
            "in work         4   7 waiting, 3 leases",
            "local         90     9.0 ms",
            "here         67 %   20 local, 10 cloud",
            "spent       $0.25",
            "saved       $1.75",
            "q end · Tab page",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is missing:\n{text}");
        }
    }

    #[test]
    fn a_small_terminal_scrolls_and_none_is_too_small() {
        let mut board = watched();
        for _ in 0..100 {
            board.press(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
        }
        let text = frame(&mut board, 80, 10, Instant::now());
        assert!(text.contains("saved"), "the last line is reached, and no further:\n{text}");
        for (width, height) in [(1, 1), (3, 2), (10, 3), (20, 4), (240, 80)] {
            for page in 0..5 {
                board.press(KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE));
                board.explains = page % 2 == 0;
                frame(&mut board, width, height, Instant::now());
            }
        }
    }

    #[test]
    fn a_lost_gateway_is_told_above_the_last_picture() {
        let (mut board, now) = (watched(), Instant::now());
        board.hear(News::Lost { why: "Connection refused".to_owned(), retry_in: Duration::from_secs(2) }, now);
        let text = frame(&mut board, 110, 20, now + Duration::from_secs(1));
        assert!(text.contains("LOST for 1 s: Connection refused; tried again in 1 s"), "{text}");
        assert!(text.contains("serving, with trouble"), "{text}");
    }

    #[test]
    fn keys_are_explained_on_demand() {
        let mut board = watched();
        board.press(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE));
        assert!(frame(&mut board, 120, 30, Instant::now()).contains("try a lost gateway again now"));
    }
}
