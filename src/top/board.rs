//! All that is known of a gateway, and how it is being looked at. Pure: news and keys in, state out; `now` is an argument.

use super::{
    feed::News,
    picture::{Picture, Request, Sample},
    verdict::{Verdict, verdict},
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::VecDeque;
use tokio::time::Instant;

/// Samples kept: ten minutes, as the gateway does.
const KEPT: usize = 600;
/// What PageDown goes on by.
const PAGE: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Overview,
    Fleet,
    Supervision,
    Money,
    Requests,
}

impl Page {
    pub(super) const ALL: [Self; 5] = [Self::Overview, Self::Fleet, Self::Supervision, Self::Money, Self::Requests];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Fleet => "Fleet",
            Self::Supervision => "Supervision",
            Self::Money => "Money",
            Self::Requests => "Requests",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Link {
    Connecting,
    Live,
    Lost { why: String, since: Instant, retry_at: Instant },
}

/// What follows a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Stay,
    Quit,
    /// Whoever waits to try again tries now.
    Retry,
}

#[derive(Debug)]
pub(super) struct Board {
    admin: String,
    samples: VecDeque<Sample>,
    picture: Option<Picture>,
    requests: Vec<Request>,
    pub(super) link: Link,
    page: usize,
    pub(super) scroll: usize,
    pub(super) held: bool,
    pub(super) explains: bool,
}

impl Board {
    pub(super) fn new(admin: String) -> Self {
        Self {
            admin,
            samples: VecDeque::new(),
            picture: None,
            requests: Vec::new(),
            link: Link::Connecting,
            page: 0,
            scroll: 0,
            held: false,
            explains: false,
        }
    }

    /// Takes in what the gateway said, or that it says nothing.
    pub(super) fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::Lost { why, retry_in } => {
                let since = if let Link::Lost { since, .. } = &self.link { *since } else { now };
                self.link = Link::Lost { why, since, retry_at: now + retry_in };
            }
            // A picture that is held stays; that the gateway lives is told all the same.
            _ if self.held => self.link = Link::Live,
            News::History(samples) => {
                self.samples = samples.into();
                self.bound();
            }
            News::Picture(picture) => {
                if self.samples.back().is_none_or(|last| picture.sample.at_ms > last.at_ms) {
                    self.samples.push_back(picture.sample);
                }
                self.bound();
                self.picture = Some(*picture);
                self.link = Link::Live;
            }
            News::Requests(requests) => self.requests = requests,
        }
    }

    fn bound(&mut self) {
        let surplus = self.samples.len().saturating_sub(KEPT);
        self.samples.drain(..surplus);
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Flow {
        let pages = Page::ALL.len();
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Flow::Quit,
            // The explanation goes with the key that brought it, or with any that would leave.
            KeyCode::Char('q') | KeyCode::Esc if self.explains => self.explains = false,
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Char('?' | 'h') => self.explains = !self.explains,
            KeyCode::Tab | KeyCode::Right => self.turn((self.page + 1) % pages),
            KeyCode::BackTab | KeyCode::Left => self.turn((self.page + pages - 1) % pages),
            KeyCode::Char(digit @ '1'..='5') => self.turn(digit as usize - '1' as usize),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            KeyCode::PageDown => self.scroll += PAGE,
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX / 2,
            KeyCode::Char(' ') => self.held = !self.held,
            KeyCode::Char('r') => return Flow::Retry,
            _ => {}
        }
        Flow::Stay
    }

    fn turn(&mut self, page: usize) {
        self.page = page;
        self.scroll = 0;
    }

    pub(super) fn page(&self) -> Page {
        Page::ALL.get(self.page).copied().unwrap_or(Page::Overview)
    }

    pub(super) fn admin(&self) -> &str {
        &self.admin
    }

    pub(super) fn samples(&self) -> &VecDeque<Sample> {
        &self.samples
    }

    pub(super) fn picture(&self) -> Option<&Picture> {
        self.picture.as_ref()
    }

    pub(super) fn requests(&self) -> &[Request] {
        &self.requests
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.picture.as_ref().map(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn press(board: &mut Board, code: KeyCode) -> Flow {
        board.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_turn_pages_scroll_explain_and_end() {
        let mut board = Board::new("here".to_owned());
        press(&mut board, KeyCode::Left);
        assert_eq!(board.page(), Page::Requests);
        press(&mut board, KeyCode::Down);
        press(&mut board, KeyCode::PageDown);
        press(&mut board, KeyCode::Up);
        assert_eq!(board.scroll, PAGE);
        press(&mut board, KeyCode::Tab);
        assert_eq!((board.page(), board.scroll), (Page::Overview, 0));
        press(&mut board, KeyCode::Char('3'));
        assert_eq!(board.page(), Page::Supervision);
        press(&mut board, KeyCode::Char('?'));
        assert_eq!(press(&mut board, KeyCode::Char('q')), Flow::Stay, "it leaves the explanation first");
        assert!(!board.explains);
        assert_eq!(press(&mut board, KeyCode::Char('q')), Flow::Quit);
        assert_eq!(board.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Flow::Quit);
    }

    #[test]
    fn a_lost_gateway_is_told_since_when_and_keeps_its_last_picture() {
        let mut board = Board::new("here".to_owned());
        let start = Instant::now();
        board.hear(News::Picture(Box::default()), start);
        assert_eq!(board.link, Link::Live);
        let lost = |why: &str| News::Lost { why: why.to_owned(), retry_in: Duration::from_secs(1) };
        board.hear(lost("one"), start);
        board.hear(lost("two"), start + Duration::from_secs(5));
        let Link::Lost { why, since, retry_at } = &board.link else { panic!("it is lost") };
        assert_eq!((why.as_str(), *since, *retry_at), ("two", start, start + Duration::from_secs(6)));
        assert!(board.picture().is_some());
        board.hear(News::Picture(Box::default()), start);
        assert_eq!(board.link, Link::Live);
    }

    #[test]
    fn ten_minutes_are_kept_and_a_held_picture_stays() {
        let mut board = Board::new("here".to_owned());
        let now = Instant::now();
        let sample = |at_ms| Sample { at_ms, ..Sample::default() };
        board.hear(News::History((1..=700).map(sample).collect()), now);
        board.hear(News::Picture(Box::new(Picture { sample: sample(701), ..Picture::default() })), now);
        assert_eq!((board.samples().len(), board.samples().back().unwrap().at_ms), (KEPT, 701));
        press(&mut board, KeyCode::Char(' '));
        board.hear(News::Picture(Box::new(Picture { sample: sample(702), ..Picture::default() })), now);
        assert_eq!(board.samples().back().unwrap().at_ms, 701);
    }
}
