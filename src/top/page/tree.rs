//! The supervision tree: who lives, since when, how often it was started again and what it last died of. Pure.

use super::{
    super::picture::{Actor, Level, Picture},
    cut, dim, state,
};
use crate::words::span;
use ratatui::text::{Line, Span};

/// Deeper than any tree there is; a gateway that publishes a circle is drawn to here, and to no more lines than it has actors.
const DEEPEST: usize = 8;
/// Columns of the name with its branches.
const NAME: usize = 34;

pub(super) fn lines(picture: &Picture, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    branch(&picture.actors, None, &mut Vec::new(), width, &mut lines);
    lines
}

/// `bends`: for each level above, whether somebody comes after it.
fn branch(actors: &[Actor], parent: Option<&str>, bends: &mut Vec<bool>, width: usize, lines: &mut Vec<Line<'static>>) {
    if bends.len() > DEEPEST {
        return;
    }
    let children: Vec<&Actor> = actors.iter().filter(|actor| actor.parent.as_deref() == parent).collect();
    for (at, actor) in children.iter().enumerate() {
        if lines.len() >= actors.len() {
            return;
        }
        let is_last = at + 1 == children.len();
        let above: String = bends.iter().skip(1).map(|goes_on| if *goes_on { "│  " } else { "   " }).collect();
        let own = match (bends.is_empty(), is_last) {
            (true, _) => "",
            (false, true) => "└─ ",
            (false, false) => "├─ ",
        };
        lines.push(line(actor, &format!("{above}{own}"), width));
        bends.push(!is_last);
        branch(actors, Some(&actor.name), bends, width, lines);
        bends.pop();
    }
}

fn line(actor: &Actor, branches: &str, width: usize) -> Line<'static> {
    let level = match actor.state.as_str() {
        "running" => Level::Ok,
        "stopped" => Level::Bad,
        _ => Level::Warn,
    };
    let name = cut(&format!("{branches}{}", actor.name), NAME);
    let restarts = match actor.restarts {
        0 => String::new(),
        1 => "1 restart".to_owned(),
        many => format!("{many} restarts"),
    };
    let cause = actor.last_exit_cause.as_deref().map(|cause| format!("last: {cause}")).unwrap_or_default();
    let gap = " ".repeat(NAME.saturating_sub(Span::raw(&name).width()));
    Line::from(vec![
        Span::raw(format!("{name}{gap}  ")),
        state(level, &format!("{:<10}", cut(&actor.state, 10))),
        Span::raw(format!(" {:>10}  {restarts:<12}", span(actor.uptime_s))),
        dim(cut(&cause, width.saturating_sub(NAME + 42))),
    ])
}
