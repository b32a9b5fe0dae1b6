//! `spillway top`: a running gateway in the terminal. Reads what the admin listener publishes for the console (`/admin/events`,
//! `/admin/requests`) and changes nothing. `board` is what is known, `page` turns it into lines, both without a terminal; `feed`
//! keeps the connection, `screen` owns the terminal.

mod board;
mod feed;
mod page;
mod picture;
mod screen;
mod series;
mod verdict;

use crate::cli::{self, ConfigArgs, TokenArgs, UNHEALTHY, failed, note, say};
use board::Board;
use clap::Args;
use feed::{Admin, News};
use serde_json::{Value, json};
use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

/// For one picture: the gateway takes one at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where nothing says how wide the output is.
const WIDTH: usize = 110;

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The admin listener; without it, where the configuration says that it listens.
    #[arg(long, value_name = "URL", env = "SPILLWAY_ADMIN_URL")]
    admin: Option<String>,
    #[command(flatten)]
    token: TokenArgs,
    /// Print one picture as text and end; so it is, too, when stdout is no terminal.
    #[arg(long)]
    once: bool,
    /// Print one picture as JSON and end.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: TopArgs) -> ExitCode {
    let admin = match admin(&args) {
        Ok(admin) => admin,
        Err(why) => return failed(&why),
    };
    if args.once || args.json || !io::stdout().is_terminal() {
        return once(&admin, args.json).await;
    }
    match screen::show(admin).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("the terminal: {error}")),
    }
}

/// Whom to ask, and with what token.
fn admin(args: &TopArgs) -> Result<Admin, String> {
    let named = args.token.token()?;
    // The variable's name of old.
    match &args.admin.clone().or_else(|| std::env::var("SPILLWAY_ADMIN").ok()) {
        Some(url) => Admin::new(url, named),
        None => {
            let config = cli::load_to_look(&args.config)
                .map_err(|error| format!("{error}\nor name the admin listener with --admin"))?;
            let server = &config.server;
            let scheme = if server.tls.is_some() && !server.admin_listen.ip().is_loopback() { "https" } else { "http" };
            let url = format!("{scheme}://{}", crate::keys::reachable(server.admin_listen));
            Admin::new(&url, named.or_else(|| server.admin_token.clone()))
        }
    }
}

async fn once(admin: &Admin, as_json: bool) -> ExitCode {
    let mut board = Board::new(admin.url().to_owned());
    let taken = tokio::time::timeout(PATIENCE, admin.once()).await;
    let (history, picture, requests) = match taken.unwrap_or_else(|_| Err("it says nothing".to_owned())) {
        Ok(taken) => taken,
        Err(why) => {
            if as_json {
                say(&json!({"ok": false, "error": format!("{}: {why}", admin.url())}));
            }
            note(&format!("spillway: {}: {why}", admin.url()));
            return ExitCode::from(UNHEALTHY);
        }
    };
    for (name, news) in [("history", &history), ("picture", &picture), ("requests", &requests)] {
        match News::read(name, news) {
            Ok(news) => board.hear(news, tokio::time::Instant::now()),
            Err(why) => return failed(&format!("{}: {why}; is it of another version?", admin.url())),
        }
    }
    let serves = board.verdict().is_some_and(|verdict| verdict.serves);
    if as_json {
        say(&object(&board, serves, picture, requests));
    } else {
        page::whole(&board, columns()).iter().for_each(|line| cli::show(line));
    }
    if serves { ExitCode::SUCCESS } else { ExitCode::from(UNHEALTHY) }
}

/// What was published, and the rates that it amounts to.
fn object(board: &Board, ok: bool, mut picture: Value, mut requests: Value) -> Value {
    let verdict = board.verdict();
    if let Some(object) = picture.as_object_mut() {
        object.insert("ok".to_owned(), ok.into());
        object.insert("headline".to_owned(), json!(verdict.as_ref().map(|verdict| verdict.headline)));
        object.insert("problems".to_owned(), json!(verdict.map(|verdict| verdict.problems)));
        object.insert("rates".to_owned(), json!(series::now(board.samples())));
        object.insert("requests".to_owned(), requests["requests"].take());
    }
    picture
}

fn columns() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let seen = || {
        let size = io::stdout().is_terminal().then(crossterm::terminal::size)?;
        size.ok().map(|(columns, _)| usize::from(columns))
    };
    told.or_else(seen).unwrap_or(WIDTH).clamp(60, 240)
}
