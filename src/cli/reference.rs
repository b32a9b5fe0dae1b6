//! `spillway completions`, `man` and `config schema`: the command line described for shells and for `man`, the configuration for
//! editors, each derived from the same definition that reads it. Decides nothing.

use super::{failed, help};
use clap::{Args, Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

const NAME: &str = "spillway";

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Which shell.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write every page (spillway.1, spillway-serve.1, …) into this folder, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the JSON Schema of a configuration file.
    #[command(after_help = help::CONFIG_SCHEMA)]
    Schema,
}

pub(super) fn config(command: &ConfigCommand) -> ExitCode {
    let ConfigCommand::Schema = command;
    let text = serde_json::to_string_pretty(&spillway_actors::config::schema()).unwrap_or_default();
    told(writeln!(io::stdout(), "{text}"), "standard output")
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, NAME, &mut text);
    told(io::stdout().write_all(&text), "standard output")
}

pub(super) fn man(args: &ManArgs, command: Command) -> ExitCode {
    match &args.dir {
        Some(folder) => told(write_pages(command, folder), &folder.display().to_string()),
        None => told(page(&command).and_then(|text| io::stdout().write_all(&text)), "standard output"),
    }
}

/// A reader that has seen enough is nobody's fault.
fn told(outcome: io::Result<()>, place: &str) -> ExitCode {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&format!("cannot write to {place}: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // Without a date, the same program writes the same page.
    Man::new(command.clone()).section("1").date("").render(&mut text)?;
    Ok(text)
}

/// The page of each command that does something, named by its whole path.
fn write_pages(mut command: Command, folder: &Path) -> io::Result<()> {
    command.build();
    fs::create_dir_all(folder)?;
    pages(&command, NAME)
        .into_iter()
        .try_for_each(|(name, command)| fs::write(folder.join(format!("{name}.1")), page(command)?))
}

fn pages<'c>(command: &'c Command, name: &str) -> Vec<(String, &'c Command)> {
    let own = (name.to_owned(), command);
    let below = command.get_subcommands().filter(|command| command.get_name() != "help");
    let below = below.flat_map(|command| pages(command, &format!("{name}-{}", command.get_name())));
    std::iter::once(own).chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn leaves() -> Vec<(String, Command)> {
        let mut command = super::super::Cli::command();
        command.build();
        let all = pages(&command, NAME);
        let has_own_work = |name: &str, command: &Command| !command.has_subcommands() || name == "spillway-route";
        all.into_iter().filter(|(name, command)| has_own_work(name, command)).map(|(n, c)| (n, c.clone())).collect()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_in_a_line_and_shows_itself_in_an_example() {
        for (name, mut command) in leaves() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.contains('\n'), "{name}: {about:?}");
            let path = name.replace('-', " ");
            let help = command.render_long_help().to_string();
            let is_shown = help.lines().any(|line| line.starts_with("  ") && line.contains(&path));
            assert!(is_shown, "no example of `{path}`:\n{help}");
        }
    }

    /// Examples cannot rot: what follows the program's name is a command line that parses.
    #[test]
    fn every_example_is_a_command_line_that_parses() {
        let mut tried = 0;
        for (name, mut command) in leaves() {
            let help = command.render_long_help().to_string();
            let Some((_, after)) = help.rsplit_once("\nExample") else { continue };
            for line in after.lines().filter(|line| line.starts_with("  ")) {
                let Some(at) = line.find("spillway ").filter(|at| !line[..*at].contains('#')) else { continue };
                let words = words(&line[at..]);
                let parsed = super::super::Cli::command().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{name}: {words:?}: {}", parsed.unwrap_err());
                tried += 1;
            }
        }
        assert!(tried >= 30, "{tried} examples");
    }

    /// The words of the first command of a shell's line, as far as examples go.
    fn words(line: &str) -> Vec<String> {
        let line = line.replace("$!", "1");
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for character in line.chars() {
            match character {
                '"' => quoted = !quoted,
                '|' | '>' | '&' | ')' | '#' if !quoted => break,
                ' ' if !quoted => words.push(std::mem::take(&mut word)),
                character => word.push(character),
            }
        }
        words.push(word.trim_end_matches('2').to_owned());
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn commands_that_read_can_answer_in_json() {
        let reading = "check doctor route usage top chat models-ls models-show models-verify keys-ls bench-scenarios \
            bench-engine bench-edge";
        let leaves = leaves();
        for name in reading.split_whitespace() {
            let (_, command) = leaves.iter().find(|(leaf, _)| *leaf == format!("spillway-{name}")).expect(name);
            let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
            assert!(has_json, "{name}");
        }
    }

    #[test]
    fn there_is_a_page_for_every_command_and_each_names_its_whole_path() {
        let folder = std::env::temp_dir().join(format!("spillway-man-{}", std::process::id()));
        write_pages(super::super::Cli::command(), &folder).unwrap();
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert!(text("spillway.1").contains(".TH spillway 1"), "{}", text("spillway.1"));
        let pull = text("spillway-models-pull.1");
        assert!(pull.contains("spillway models pull") && pull.contains("hf:"), "{pull}");
        assert!(!folder.join("spillway-help.1").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
