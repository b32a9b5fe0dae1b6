//! A conversation at the terminal: line, answer, line. What begins with `/` is for this program and is never sent.

use super::{
    ask::{Api, Conversation, Failure},
    line::Line,
    prompt::{self, Wish},
    tell, until_interrupted,
};
use crate::cli::{failed, note};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
/new          forget the conversation
/model NAME   ask another model (auto, local, or a name); without a NAME: which one it is
/system TEXT  what the model is told first; without a TEXT: nothing
/quit         or Ctrl-D
Alt-Enter begins another line of the same message. Ctrl-C ends an answer.";

/// What a person typed.
#[derive(Debug, PartialEq, Eq)]
enum Order<'t> {
    Say(&'t str),
    New,
    Model(&'t str),
    System(&'t str),
    Help,
    Quit,
    Unknown(&'t str),
    Nothing,
}

fn order(text: &str) -> Order<'_> {
    let text = text.trim();
    let Some(command) = text.strip_prefix('/') else {
        return if text.is_empty() { Order::Nothing } else { Order::Say(text) };
    };
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    match (name, rest.trim()) {
        ("new", "") => Order::New,
        ("model", name) => Order::Model(name),
        ("system", text) => Order::System(text),
        ("help" | "?", "") => Order::Help,
        ("quit" | "exit", "") => Order::Quit,
        _ => Order::Unknown(name),
    }
}

/// Until its person ends it. A failed answer is told, and the conversation goes on.
pub(super) async fn talk(api: &Api, mut conversation: Conversation) -> ExitCode {
    // From now on Ctrl-C ends answers, never the program.
    let _interrupts = match signal(SignalKind::interrupt()) {
        Ok(interrupts) => interrupts,
        Err(error) => return failed(&format!("Ctrl-C cannot be caught: {error}")),
    };
    note(&format!("{} at {} · /help · Ctrl-D ends", conversation.model, api.url()));
    let mut line = Line::default();
    loop {
        let text = match prompt::read(&mut line).await {
            Ok(Wish::Say(text)) => text,
            Ok(Wish::Nothing) => {
                note(&"Ctrl-D ends");
                continue;
            }
            Ok(Wish::End) => return ExitCode::SUCCESS,
            Err(error) => return failed(&format!("the terminal: {error}")),
        };
        match order(&text) {
            Order::Nothing => {}
            Order::Say(text) => answer(api, &mut conversation, text).await,
            Order::New => conversation.begin_anew(),
            Order::Model("") => note(&conversation.model),
            Order::Model(name) => name.clone_into(&mut conversation.model),
            Order::System(text) => conversation.tell_system(Some(text.to_owned()).filter(|text| !text.is_empty())),
            Order::Help => note(&HELP),
            Order::Quit => return ExitCode::SUCCESS,
            Order::Unknown(name) => note(&format!("there is no /{name}; /help lists what there is")),
        }
    }
}

async fn answer(api: &Api, conversation: &mut Conversation, text: &str) {
    conversation.say(text.to_owned());
    let outcome = until_interrupted(api, conversation, true).await;
    tell(&outcome);
    // What was read belongs to the conversation, also where it was ended; what was never answered does not.
    match outcome {
        (answer, None | Some(Failure::Interrupted | Failure::Broken(_))) if !answer.text.is_empty() => {
            conversation.hear(answer.text);
        }
        _ => conversation.unsay(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_is_for_this_program_and_everything_else_is_said() {
        for (text, wanted) in [
            ("  hello  ", Order::Say("hello")),
            ("what is /etc?", Order::Say("what is /etc?")),
            ("", Order::Nothing),
            ("/new", Order::New),
            ("/model local", Order::Model("local")),
            ("/model", Order::Model("")),
            ("/system Be  brief.", Order::System("Be  brief.")),
            ("/quit", Order::Quit),
            ("/etc/passwd is what?", Order::Unknown("etc/passwd")),
        ] {
            assert_eq!(order(text), wanted, "{text:?}");
        }
    }
}
